"""The hand-over between two pods of one node (`--local-path=handover` and `host`): no TLS, one relay.

The source identity is known from the capture, the destination's policy is asked as for a tunnel, and both
ends leave their telemetry. With `host` a connection through the host's stack goes ahead of the application's and stays
beside it (`crossing`); without one the host's NetworkPolicy is skipped, so that is an explicit choice.
"""

from __future__ import annotations

import socket

from agent.model.address import SocketAddress, split_host_port
from agent.model.connection import Connection, Direction
from agent.model.listener import HBONE
from agent.model.outcome import Outcome, Refusal
from agent.model.route import Route
from agent.model.workload import Workload
from agent.net.dial import Dial, DialOwner
from agent.net.loop import Loop
from agent.proxy.crossing import Crossing, CrossingOwner, Crossings
from agent.proxy.delivery import Delivery
from agent.proxy.life import Attempt, Recorded
from agent.proxy.pods import LocalPods
from agent.proxy.registry import Live, LiveOwner
from agent.proxy.report import Reporter
from agent.state.connect_target import guess_service, resolve_inbound
from agent.state.resolve import Options
from agent.telemetry.past import Past
from agent.telemetry.record import Opened

CROSSINGS_TRIED, AGAIN_S = 5, 0.05
"""While listeners change hands, before the client is told; the pauses grow by so much."""


class LocalPath:
    """Hands connections over to pods of this node; one per worker. `crossings`: by way of the host."""

    def __init__(
        self,
        delivery: Delivery,
        pods: LocalPods,
        reporter: Reporter,
        options: Options,
        crossings: Crossings | None = None,
    ) -> None:
        self.delivery = delivery
        self.reporter = reporter
        self.crossings = crossings
        self._pods = pods
        self._options = options

    def takes(self, route: Route) -> bool:
        """Whether the tunnel would end at an enrolled pod of this node, with no waypoint in between."""
        if self.crossings is not None and not self.crossings.share:
            return False  # no listener leads here any more: this worker ends
        pod = self._pods.at(route.target.ip)
        return (
            pod is not None
            and route.target.port == HBONE.port
            and route.destination is not None
            and route.destination.application_tunnel is None
            and route.target.ip in route.destination.addresses
            and (route.destination.namespace, route.destination.name) == (pod.namespace, pod.name)
        )

    @staticmethod
    def reaches(route: Route) -> SocketAddress:
        """What a connection by this path ends at, in place of the tunnel port."""
        assert route.authority is not None
        return SocketAddress(route.target.ip, split_host_port(route.authority)[1])

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
        half = HandedOver(self, connection, whole)
        half.admit(opened, workload)
        return half


class HandedOver(Recorded):
    """The destination's half: its registry entry, its record and what crosses the host live until `conclude`."""

    __slots__ = ("_connection", "_crossing", "_crossings", "_delivery", "_whole")

    def __init__(self, path: LocalPath, connection: Connection, whole: LiveOwner) -> None:
        super().__init__(path.delivery.registry, path.reporter)
        self._delivery = path.delivery
        self._connection = connection
        self._whole = whole
        self._crossings = path.crossings
        self._crossing: Crossing | None = None

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

    def reach(self, owner: DialOwner) -> Attempt:
        """Connect to the application, where it is so wanted after the host has let a connection through."""
        # What a pod says to itself the host need not see, and some do not route it.
        if self._crossings is None or self._connection.source.ip == self._connection.destination.ip:
            return self.dial(owner)
        approach = Approach(self, owner)
        approach.begin()
        return approach

    @property
    def loop(self) -> Loop:
        return self._delivery.loop

    @property
    def leads_here(self) -> bool:
        """Whether there is a listener by which a crossing comes to this worker."""
        return self._crossings is not None and bool(self._crossings.share)

    def cross(self, owner: CrossingOwner) -> Crossing:
        assert self._crossings is not None
        crossing = self._crossings.cross(self._connection.source, self._connection.destination, owner)
        self._crossing = crossing
        return crossing

    def dial(self, owner: DialOwner) -> Dial:
        return self._delivery.dial(self._connection, owner, keep_port=True)

    # -- from one process to another

    def hand_on_crossing(self) -> list[socket.socket]:
        """The ends of what crosses the host beside it, if anything does: that of one that is reached is complete."""
        crossing, self._crossing = self._crossing, None
        return crossing.hand_on() if crossing is not None else []

    def crossed(self, near: socket.socket, far: socket.socket, owner: DialOwner) -> None:
        """The host has let it through when another process had it. Raises Refusal."""
        if self._crossings is None:
            raise Refusal(
                Outcome.UNSUPPORTED, "it came by way of the host, which this worker does not follow"
            )
        facts = self._connection
        self._crossing = self._crossings.resumed(
            facts.source, facts.destination, near, far, Approach(self, owner)
        )

    def take_up(self, live: Live, past: Past) -> None:
        super().take_up(live, past)
        if self._crossing is not None:
            self._crossing.go_on()

    def conclude(self, outcome: Outcome, detail: str) -> None:
        if self._crossing is not None:
            self._crossing.cancel()
            self._crossing = None
        super().conclude(outcome, detail)

    def close(self, outcome: Outcome, detail: str) -> None:
        self._whole.close(outcome, detail)


class Approach:
    """The way to the application by the host; not the crossing itself, which outlives it."""

    __slots__ = ("_half", "_owner", "_step", "_strayed")

    def __init__(self, half: HandedOver, owner: DialOwner) -> None:
        self._half = half
        self._owner = owner
        self._step: Attempt | None = None
        self._strayed = 0

    def begin(self) -> None:
        self._step = self._half.cross(self)

    def cancel(self) -> None:
        if self._step is not None:
            self._step.cancel()

    def crossed(self) -> None:
        self._step = self._half.dial(self._owner)

    def strayed(self) -> None:
        self._strayed += 1
        if self._half.leads_here and self._strayed < CROSSINGS_TRIED:
            self._step = self._half.loop.later((self._strayed - 1) * AGAIN_S, self.begin)
        else:
            self._half.close(Outcome.DRAINED, "the host let it through to the worker that serves next")

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self._owner.failed(target, error)

    def cut(self, refusal: Refusal) -> None:
        self._half.close(refusal.outcome, refusal.detail)
