"""Carry bytes between two plain sockets, until both directions have ended.

For passthrough, plaintext inbound and the local hand-over. Same rules of ends, counters and back-pressure
as `net.relay`: nothing is read for a socket that still has a backlog.
"""

from __future__ import annotations

import socket
from typing import Protocol

from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.loop import ENDED, READABLE, WRITABLE, Loop

BATCH_BYTES = 1 << 18


class _End:
    """One socket: what it still has to send, and what may still come from it."""

    __slots__ = (
        "backlog",
        "ended",
        "fd",
        "from_bytes",
        "is_readable",
        "other",
        "reads",
        "relay",
        "sock",
        "writes",
    )

    def __init__(self, relay: PlainRelay, sock: socket.socket) -> None:
        self.relay = relay
        self.sock = sock
        self.fd = sock.fileno()
        self.other: _End = self
        self.backlog = b""
        self.from_bytes = 0
        self.reads = self.writes = True
        self.ended = self.is_readable = False

    def on_ready(self, mask: int) -> None:
        if mask & ENDED:
            self.ended = True
        if mask & WRITABLE and self.backlog:
            self.send_backlog()
        if mask & READABLE and self.reads:
            self.is_readable = True
            self.pump()

    def pump(self) -> None:
        """One batch from here to the other end, unless that is still busy with the last one."""
        other = self.other
        if not self.is_readable or not self.reads or other.backlog or self.relay.is_over:
            return
        buffer = self.relay.buffer
        try:
            size = self.sock.recv_into(buffer)
        except BlockingIOError:
            self.is_readable = False
            return
        except OSError:
            if not self.backlog and not other.backlog:
                self.relay.gone()
                return
            size = 0  # what came before the reset is delivered first
        if not size:
            self.reads = False
            other.end()
            return
        other.write(buffer[:size])
        self.from_bytes += size
        if size == len(buffer) or self.ended:
            self.relay.again(self)
        else:
            self.is_readable = False

    def write(self, data: memoryview) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.relay.gone()
            return
        if sent < len(data):
            self.backlog = bytes(data[sent:])

    def send_backlog(self) -> None:
        try:
            sent = self.sock.send(self.backlog)
        except BlockingIOError:
            return
        except OSError:
            self.relay.gone()
            return
        self.backlog = self.backlog[sent:]
        if not self.backlog:
            if not self.other.reads:
                self.end()
            else:
                self.other.pump()

    def end(self) -> None:
        """Nothing more comes for this socket: tell it, once its backlog is out."""
        if self.backlog or not self.writes:
            return
        self.writes = False
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it was faster
            pass
        self.relay.finish_if_ended()


class PlainRelayOwner(Protocol):
    def finished(self, relay: PlainRelay) -> None:
        """Both directions have ended; called once, never from inside a call of the relay."""


class PlainRelay:
    """Owns both sockets; carries bytes from `start` on. Counters as TunnelRelay's."""

    __slots__ = ("_client", "_loop", "_owner", "_server", "buffer", "error", "is_over", "outcome")

    def __init__(
        self, loop: Loop, client: socket.socket, server: socket.socket, owner: PlainRelayOwner
    ) -> None:
        self._loop = loop
        self.buffer = loop.buffers.opened[:BATCH_BYTES]
        self._client = _End(self, client)
        self._server = _End(self, server)
        self._client.other, self._server.other = self._server, self._client
        self._owner = owner
        self.is_over = False
        self.outcome = Outcome.OK
        self.error = ""

    def start(self) -> None:
        for end in (self._client, self._server):
            self._loop.watch(end.fd, end.on_ready, self._on_crash)

    @property
    def sent_bytes(self) -> int:
        """From the client to the server."""
        return self._client.from_bytes - len(self._server.backlog)

    @property
    def received_bytes(self) -> int:
        """From the server to the client."""
        return self._server.from_bytes - len(self._client.backlog)

    def abort(self, outcome: Outcome = Outcome.RESET, detail: str = "") -> None:
        """Reset both sockets now."""
        if not self.is_over:
            self.outcome, self.error = outcome, detail or outcome.hint
            self._finish(reset=True)

    def again(self, end: _End) -> None:
        self._loop.soon(end.pump)

    def gone(self) -> None:
        """One socket was reset, so both are: the other end sees what it would see without a proxy."""
        if not self.is_over:
            self._finish(reset=True)

    def finish_if_ended(self) -> None:
        ends = (self._client, self._server)
        if not self.is_over and not any(end.reads or end.writes for end in ends):
            self._finish(reset=False)

    def _finish(self, *, reset: bool) -> None:
        self.is_over = True
        for end in (self._client, self._server):
            self._loop.forget(end.fd)
            close(end.sock, reset=reset)
        self._loop.soon(self._tell)

    def _tell(self) -> None:
        owner = self._owner
        del self._owner  # who holds the relay
        owner.finished(self)

    def _on_crash(self, error: BaseException) -> None:
        self.abort(Outcome.INTERNAL, f"{type(error).__name__}: {error}")
