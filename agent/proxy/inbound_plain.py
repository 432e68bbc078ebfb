"""Inbound plaintext (15006): the same delivery with no identity, so policy decides what plaintext may do."""

from __future__ import annotations

import socket

from agent.model.address import SocketAddress
from agent.model.connection import Connection, Direction
from agent.model.outcome import Outcome, Refusal
from agent.net.dial import Dial
from agent.net.plain_relay import PlainRelay
from agent.proxy.captured import CapturedLife, Keeper
from agent.proxy.crossing import Crossings
from agent.proxy.delivery import Delivery
from agent.proxy.pods import LocalPods
from agent.proxy.registry import Live
from agent.proxy.report import Reporter
from agent.state.connect_target import check_plain, guess_service
from agent.state.resolve import Options
from agent.telemetry.past import Past
from agent.telemetry.record import Opened


class InboundPlain:
    """Accepts plaintext connections to enrolled pods; one per worker.

    Their clients have proven nothing: of the `connections` that a worker may hold they leave a quarter to others.
    `crossings`: dials of this worker that come back to it.
    """

    def __init__(
        self,
        delivery: Delivery,
        pods: LocalPods,
        reporter: Reporter,
        options: Options,
        connections: int,
        crossings: Crossings | None = None,
    ) -> None:
        self.delivery = delivery
        self.pods = pods
        self.reporter = reporter
        self.options = options
        self.limit = max(1, connections * 3 // 4)
        self.count = 0
        self._crossings = crossings

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """A connection to a pod's application port: `local` is the original destination."""
        if self._crossings is not None and self._crossings.arrived(sock, peer, local):
            return
        PlainConnection(self, sock, peer, local).start()


class PlainConnection(CapturedLife):
    """One plaintext connection."""

    __slots__ = ("_inbound",)
    direction = Direction.INBOUND

    def __init__(
        self, inbound: InboundPlain, client: socket.socket | Keeper, peer: SocketAddress, local: SocketAddress
    ) -> None:
        delivery = inbound.delivery
        super().__init__(delivery.loop, delivery.registry, inbound.reporter, client, peer, local)
        self._inbound = inbound

    def _begin(self) -> Dial:
        inbound, delivery = self._inbound, self._inbound.delivery
        if inbound.count >= inbound.limit:
            raise Refusal(Outcome.OVERLOADED, "plaintext connections have their share of --max-connections")
        snapshot = delivery.store.current
        workload = inbound.pods.workload(snapshot, self.local.ip, is_source=False)
        check_plain(workload, self.local, inbound.options)
        live = Live(self.direction, self.local.ip, self.peer, self.local, self.local, "TCP", self)
        live.connection = Connection(self.peer, self.local, None, inbound.options.network)
        opened = Opened(
            direction=self.direction,
            source_address=self.peer,
            destination_address=self.local,
            source=snapshot.workload_at(inbound.options.network, self.peer.ip),
            destination=workload,
            service=guess_service(snapshot, workload, self.local.port),
        )
        self._record(live, opened)
        inbound.count += 1
        delivery.admit(live, workload)
        return delivery.dial(live.connection, self, keep_port=True)

    def take_up(self, live: Live, past: Past) -> None:
        self._inbound.count += 1
        super().take_up(live, past)

    def _unregister(self) -> None:
        if self._live is not None:
            self._inbound.count -= 1
        super()._unregister()

    def _join(self, sock: socket.socket) -> PlainRelay:
        return PlainRelay(self._loop, self._sock, sock, self)
