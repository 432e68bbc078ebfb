"""The hand-over between two pods of one node (`--local-path=handover`): no TLS, no host stack.

The source identity is known from the capture, the destination's policy is asked as for a tunnel, and both
ends leave their telemetry. It skips the host's NetworkPolicy, so it is an explicit choice.
"""

from __future__ import annotations

from agent.model.address import SocketAddress
from agent.model.connection import Connection, Direction
from agent.model.listener import HBONE
from agent.model.outcome import Outcome, Refusal
from agent.model.route import Route
from agent.model.workload import Workload
from agent.net.dial import Dial, DialOwner
from agent.proxy.delivery import Delivery
from agent.proxy.life import Recorded
from agent.proxy.pods import LocalPods
from agent.proxy.registry import Live, LiveOwner
from agent.proxy.report import Reporter
from agent.state.connect_target import guess_service, resolve_inbound
from agent.state.resolve import Options
from agent.telemetry.record import Opened


class LocalPath:
    """Hands connections over to pods of this node; one per worker."""

    def __init__(self, delivery: Delivery, pods: LocalPods, reporter: Reporter, options: Options) -> None:
        self.delivery = delivery
        self.reporter = reporter
        self._pods = pods
        self._options = options

    def takes(self, route: Route) -> bool:
        """Whether the tunnel would end at an enrolled pod of this node, with no waypoint in between."""
        pod = self._pods.at(route.target.ip)
        return (
            pod is not None
            and route.target.port == HBONE.port
            and route.destination is not None
            and route.destination.application_tunnel is None
            and route.target.ip in route.destination.addresses
            and (route.destination.namespace, route.destination.name) == (pod.namespace, pod.name)
        )

    def hand_over(
        self, source: Workload, client: SocketAddress, route: Route, whole: LiveOwner
    ) -> HandedOver:
        """The destination's half of the connection, registered and allowed. Raises Refusal.

        `whole` is asked to end the connection when policy of the destination wants it.
        """
        snapshot = self.delivery.store.current
        workload = self._pods.workload(snapshot, route.target.ip, is_source=False)
        assert route.authority is not None
        target = resolve_inbound(snapshot, workload, route.target.ip, route.authority, self._options)
        if target.proxy_target is not None:
            # It was none when the route was taken: the next connection goes by a tunnel, which ends where it is told.
            raise Refusal(Outcome.UNSUPPORTED, "the application began to ask for a PROXY header just now")
        opened = Opened(
            direction=Direction.INBOUND,
            source_address=client,
            destination_address=target.destination,
            source=source,
            destination=workload,
            source_identity=source.identity,
            destination_identity=workload.identity,
            authority=route.authority,
            service=guess_service(snapshot, workload, target.destination.port),
        )
        connection = Connection(client, target.destination, source.identity, self._options.network)
        half = HandedOver(self.delivery, self.reporter, connection, whole)
        half.admit(opened, workload)
        return half


class HandedOver(Recorded):
    """The destination's half: its registry entry and its record live until `conclude`."""

    __slots__ = ("_connection", "_delivery", "_whole")

    def __init__(
        self, delivery: Delivery, reporter: Reporter, connection: Connection, whole: LiveOwner
    ) -> None:
        super().__init__(delivery.registry, reporter)
        self._delivery = delivery
        self._connection = connection
        self._whole = whole

    def admit(self, opened: Opened, workload: Workload) -> None:
        destination = self._connection.destination
        live = Live(
            Direction.INBOUND,
            destination.ip,
            self._connection.source,
            destination,
            destination,
            "TCP",
            self,
        )
        live.connection = self._connection
        self._record(live, opened)
        try:
            self._delivery.admit(live, workload)
        except Refusal as refusal:
            self.conclude(refusal.outcome, refusal.detail)
            raise

    def dial(self, owner: DialOwner) -> Dial:
        return self._delivery.dial(self._connection, owner, keep_port=True)

    def close(self, outcome: Outcome, detail: str) -> None:
        self._whole.close(outcome, detail)
