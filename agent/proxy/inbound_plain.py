"""Inbound plaintext (15006): the same delivery with no identity, so policy decides what plaintext may do."""

from __future__ import annotations

import socket

from agent.model.address import SocketAddress
from agent.model.connection import Connection, Direction
from agent.model.outcome import Outcome, Refusal
from agent.net.dial import Dial
from agent.net.plain_relay import PlainRelay
from agent.proxy.delivery import Delivery, reset
from agent.proxy.pods import LocalPods
from agent.proxy.registry import Live
from agent.proxy.report import Reporter, Tracked
from agent.state.connect_target import check_not_own, guess_service
from agent.state.resolve import Options
from agent.telemetry.record import Opened


class InboundPlain:
    """Accepts plaintext connections to enrolled pods; one per worker."""

    def __init__(self, delivery: Delivery, pods: LocalPods, reporter: Reporter, options: Options) -> None:
        self.delivery = delivery
        self.pods = pods
        self.reporter = reporter
        self.options = options

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """A connection to a pod's application port: `local` is the original destination."""
        PlainConnection(self, sock, peer, local).start()


class PlainConnection:
    """One plaintext connection: from accept to the end of its relay."""

    __slots__ = ("_dial", "_live", "_local", "_owner", "_peer", "_relay", "_sock", "_tracked")

    def __init__(
        self, owner: InboundPlain, sock: socket.socket, peer: SocketAddress, local: SocketAddress
    ) -> None:
        self._owner = owner
        self._sock = sock
        self._peer = peer
        self._local = local
        self._dial: Dial | None = None
        self._relay: PlainRelay | None = None
        self._live: Live | None = None
        self._tracked: Tracked | None = None

    def start(self) -> None:
        try:
            self._admit()
        except Refusal as refusal:
            self._refuse(refusal)

    def _admit(self) -> None:
        owner, delivery = self._owner, self._owner.delivery
        check_not_own(self._local, owner.options)
        snapshot = delivery.store.current
        workload = owner.pods.workload(snapshot, self._local.ip, is_source=False)
        self._tracked = owner.reporter.opened(
            Opened(
                direction=Direction.INBOUND,
                source_address=self._peer,
                destination_address=self._local,
                source=snapshot.workload_at(owner.options.network, self._peer.ip),
                destination=workload,
                service=guess_service(snapshot, workload, self._local.port),
            )
        )
        connection = Connection(self._peer, self._local, None, owner.options.network)
        self._live = Live(
            Direction.INBOUND, self._local.ip, self._peer, self._local, self._local, "TCP", self.close
        )
        self._live.connection = connection
        delivery.admit(self._live, workload)
        self._dial = delivery.dial(connection, keep_port=True, connected=self._connected, failed=self._refuse)

    def _connected(self, app: socket.socket) -> None:
        self._dial = None
        assert self._tracked is not None
        self._relay = PlainRelay(self._owner.delivery.loop, self._sock, app, self._done)
        self._tracked.relay = self._relay

    def _refuse(self, refusal: Refusal) -> None:
        self._dial = None
        reset(self._sock)
        if self._tracked is None:
            self._owner.reporter.refused(Direction.INBOUND, self._peer, self._local, refusal.detail)
        self._end(refusal.outcome, refusal.detail)

    def close(self, outcome: Outcome, detail: str) -> None:
        """End it now, whatever it is doing."""
        if self._relay is not None:
            self._relay.abort(outcome, detail)
            return
        if self._dial is not None:
            self._dial.cancel()
        self._refuse(Refusal(outcome, detail))

    def _done(self, relay: PlainRelay) -> None:
        self._end(relay.outcome, relay.error)

    def _end(self, outcome: Outcome, detail: str) -> None:
        if self._live is not None:
            self._owner.delivery.registry.remove(self._live)
            self._live = None  # it holds `close`, and so this object
        if self._tracked is not None:
            self._tracked.finish(outcome, detail)
