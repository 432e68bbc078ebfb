"""The hand-over between two pods of one node (`--local-path=handover`): no TLS, no host stack.

The source identity is known from the capture, the destination's policy is asked as for a tunnel, and both
ends leave their telemetry. It skips the host's NetworkPolicy, so it is an explicit choice.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from agent.model.address import SocketAddress
from agent.model.connection import Connection, Direction
from agent.model.listener import HBONE
from agent.model.outcome import Outcome, Refusal
from agent.model.route import Route
from agent.model.workload import Workload
from agent.net.dial import Dial
from agent.proxy.delivery import Delivery
from agent.proxy.pods import LocalPods
from agent.proxy.registry import Live
from agent.proxy.report import CountsBytes, Reporter, Tracked
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
            and route.target.ip in route.destination.addresses
            and (route.destination.namespace, route.destination.name) == (pod.namespace, pod.name)
        )

    def hand_over(
        self,
        source: Workload,
        client: SocketAddress,
        route: Route,
        close: Callable[[Outcome, str], None],
    ) -> HandedOver:
        """The destination's half of the connection, registered and allowed. Raises Refusal.

        `close` ends the whole connection: policy of the destination may ask for it later.
        """
        snapshot = self.delivery.store.current
        workload = self._pods.workload(snapshot, route.target.ip, is_source=False)
        assert route.authority is not None
        target = resolve_inbound(snapshot, workload, route.target.ip, route.authority, self._options)
        if target.proxy_header:
            raise Refusal(
                Outcome.UNSUPPORTED, "application tunnels with PROXY protocol are not supported yet"
            )
        tracked = self.reporter.opened(
            Opened(
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
        )
        half = HandedOver(
            self.delivery,
            tracked,
            Connection(client, target.destination, source.identity, self._options.network),
            close,
        )
        half.admit(workload)
        return half


class HandedOver:
    """The destination's half: its registry entry and its record live until `finish`."""

    __slots__ = ("_connection", "_delivery", "_live", "_tracked")

    def __init__(
        self,
        delivery: Delivery,
        tracked: Tracked,
        connection: Connection,
        close: Callable[[Outcome, str], None],
    ) -> None:
        self._delivery = delivery
        self._tracked = tracked
        self._connection = connection
        destination = connection.destination
        self._live = Live(
            Direction.INBOUND, destination.ip, connection.source, destination, destination, "TCP", close
        )
        self._live.connection = connection

    def admit(self, workload: Workload) -> None:
        try:
            self._delivery.admit(self._live, workload)
        except Refusal as refusal:
            self.finish(refusal.outcome, refusal.detail)
            raise

    def dial(self, connected: Callable[[socket.socket], None], failed: Callable[[Refusal], None]) -> Dial:
        return self._delivery.dial(self._connection, keep_port=True, connected=connected, failed=failed)

    def carry(self, relay: CountsBytes) -> None:
        self._tracked.relay = relay

    def finish(self, outcome: Outcome, detail: str) -> None:
        self._delivery.registry.remove(self._live)
        self._tracked.finish(outcome, detail)
