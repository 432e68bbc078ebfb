"""Carry bytes between two plain sockets, until both directions have ended.

For passthrough, plaintext inbound and the local hand-over. Same rules of ends, counters and back-pressure
as `net.relay`: nothing is read for a socket that still has a backlog, an end stays an end and a reset a reset.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import Protocol

from agent.model.outcome import Outcome, Refusal
from agent.net.farewell import close
from agent.net.loop import BROKEN, ENDED, READABLE, WRITABLE, Loop, Timer
from agent.net.parting import PATIENCE_S, Parting
from agent.net.sockets import was_destroyed

BATCH_BYTES = 1 << 18
_RESETS = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


def loss(who: str, error: int) -> Refusal:
    """What it means that the TCP connection of `who` (client or server) broke; `error` is an errno."""
    if error in _RESETS:
        return Refusal(Outcome.RESET, f"the {who} reset the connection")
    if was_destroyed(error):
        return Refusal(Outcome.POD_REMOVED, f"the kernel closed its sockets: the {who}'s pod left the mesh")
    return Refusal(Outcome.RESET, f"the connection of the {who} broke: {os.strerror(error)}")


class _End:
    """One socket: what it still has to send, and what may still come from it."""

    __slots__ = (
        "backlog",
        "ended",
        "fd",
        "from_bytes",
        "group",
        "held_bytes",
        "is_readable",
        "lost",
        "name",
        "other",
        "reads",
        "relay",
        "sock",
        "writes",
    )
    __deletable__ = ("other", "relay")

    def __init__(self, relay: PlainRelay, sock: socket.socket, name: str) -> None:
        self.relay = relay
        self.sock = sock
        self.name = name
        self.fd = sock.fileno()
        self.other: _End = self
        self.backlog = bytearray()
        self.held_bytes = 0
        """How much of the backlog is counted as unread."""
        self.group = ""
        """The address that leaves it unread, once it has."""
        self.from_bytes = 0
        self.reads = self.writes = True
        self.ended = self.is_readable = False
        self.lost = 0
        """The error by which its connection broke. What it had sent before is still carried."""

    def on_ready(self, mask: int) -> None:
        if mask & ENDED:
            self.ended = True
            if mask & BROKEN:
                self.on_broken()
        if mask & WRITABLE and self.backlog:
            self.send_backlog()
        if mask & READABLE and self.reads:
            self.is_readable = True
            self.pump()

    def pump(self) -> None:
        """One batch from here to the other end, unless that is still busy with the last one."""
        if not self.is_readable or not self.reads or self.other.backlog or self.relay.is_over:
            return
        other = self.other
        buffer = self.relay.buffer
        try:
            size = self.sock.recv_into(buffer)
        except BlockingIOError:
            self.is_readable = False
            return
        except OSError as error:
            self.lost = self.lost or error.errno or errno.EIO
            size = 0
        if not size:
            self.end_here()
            return
        other.write(buffer[:size])
        self.from_bytes += size
        if size == len(buffer) or self.ended:
            self.relay.again(self)
        else:
            self.is_readable = False

    def end_here(self) -> None:
        """Nothing more comes from here."""
        if self.lost:
            # The kernel says EPIPE for a reset that came after a FIN: then this direction has ended in order.
            self.relay.part(self, ends_first=self.lost == errno.EPIPE)
        else:
            self.reads = False
            self.other.end()

    def write(self, data: memoryview) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.other.from_bytes -= len(data)  # they are not carried, though the caller will say so
            self.lose(error.errno or errno.EIO)
            return
        if sent < len(data):
            self.backlog += data[sent:]
            self.count()

    def count(self) -> None:
        """Bring what is counted as unread up to the backlog."""
        more = len(self.backlog) - self.held_bytes
        self.held_bytes += more
        if more > 0:
            if not self.group:
                self.group = self.address()
            self.relay.backlogs.hold(self, more)
        elif more:
            self.relay.backlogs.release(self, -more)

    def address(self) -> str:
        try:
            return str(self.sock.getpeername()[0])
        except OSError:  # it has gone, and the next send will find that
            return self.name

    def abort(self, outcome: Outcome, detail: str) -> None:
        """Too much is unread, this most of all."""
        self.relay.abort(outcome, detail)
        self.let_go()

    def let_go(self) -> None:
        """Nothing of it is held any more."""
        if self.held_bytes:
            self.relay.backlogs.release(self, self.held_bytes)
            self.held_bytes = 0

    def send_backlog(self) -> None:
        try:
            sent = self.sock.send(self.backlog)
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(error.errno or errno.EIO)
            return
        del self.backlog[:sent]
        self.count()
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

    def on_broken(self) -> None:
        """An edge says so. Without an error it is one of a former owner of this descriptor number."""
        if error := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.lose(error)

    def lose(self, error: int) -> None:
        """Nothing can be delivered here any more; what came before is still in the socket's queue."""
        if self.lost or self.relay.is_over:
            return
        self.lost = error
        self.other.from_bytes -= len(self.backlog)
        self.backlog = bytearray()
        self.count()
        if self.reads:
            self.is_readable = self.ended = True
            self.relay.hurry(self)
            self.relay.again(self)
        else:
            self.relay.part(self, ends_first=True)


class PlainRelayOwner(Protocol):
    def finished(self, relay: PlainRelay) -> None:
        """Both directions have ended; called once, never from inside a call of the relay."""


class PlainRelay:
    """Owns both sockets; carries bytes from `start` on. Counters as TunnelRelay's."""

    __slots__ = (
        "_client",
        "_loop",
        "_owner",
        "_parting",
        "_server",
        "_timer",
        "backlogs",
        "buffer",
        "error",
        "is_over",
        "outcome",
    )
    __deletable__ = ("_owner",)

    def __init__(
        self, loop: Loop, client: socket.socket, server: socket.socket, owner: PlainRelayOwner
    ) -> None:
        self._loop = loop
        self.backlogs = loop.backlogs
        self.buffer = loop.buffers.opened[:BATCH_BYTES]
        self._client = _End(self, client, "client")
        self._server = _End(self, server, "server")
        self._client.other, self._server.other = self._server, self._client
        self._owner = owner
        self._parting: Parting | None = None
        self._timer: Timer | None = None
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
        if self._parting is not None:
            self._parting.cut()
        elif not self.is_over:
            self.outcome, self.error = outcome, detail or outcome.hint
            self._finish(reset=True)

    def again(self, end: _End) -> None:
        self._loop.soon(end.pump)

    def finish_if_ended(self) -> None:
        ends = (self._client, self._server)
        if not self.is_over and not any(end.reads or end.writes for end in ends):
            self._finish(reset=False)

    # -- one end's connection breaks

    def hurry(self, end: _End) -> None:
        """What this end sent before it broke is awaited only as long as the other end takes of it."""
        left_of = partial(self._on_patience, end, end.from_bytes - len(end.other.backlog))
        self._timer = self._loop.later(PATIENCE_S, left_of)

    def _on_patience(self, end: _End, carried: int) -> None:
        if end.from_bytes - len(end.other.backlog) > carried:
            self.hurry(end)
        else:
            why = loss(end.name, end.lost)
            self.abort(why.outcome, why.detail)

    def part(self, end: _End, *, ends_first: bool) -> None:
        """This end was reset, so both are: the other one is given what came before, and sees what it would directly."""
        if self.is_over:
            return
        why = loss(end.name, end.lost)
        self.outcome, self.error = why.outcome, why.detail
        other = end.other
        if other.lost:
            self._finish(reset=True)
            return
        self._stop()
        end.let_go()
        self._loop.leave(end.fd)
        close(end.sock, reset=True)
        self._parting = Parting(
            self._loop,
            other.sock,
            other.backlog,
            ends_first=ends_first,
            # The other counters follow from the backlog.
            sent=lambda size: other.count(),
            done=self._on_parted,
        )

    def _on_parted(self) -> None:
        self._parting = None
        for end in (self._client, self._server):
            end.other.from_bytes -= len(end.backlog)
            end.backlog = bytearray()
            end.let_go()
        self._tell()

    # -- the end

    def _stop(self) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _finish(self, *, reset: bool) -> None:
        self._stop()
        for end in (self._client, self._server):
            end.let_go()
            self._loop.leave(end.fd)
            close(end.sock, reset=reset)
        self._loop.soon(self._tell)

    def _tell(self) -> None:
        owner = self._owner
        del self._owner  # who holds the relay
        owner.finished(self)
        # The ends hold the relay and each other; apart, all go without the garbage collector. Their counts stay.
        for end in (self._client, self._server):
            end.is_readable = False
            del end.relay, end.other

    def _on_crash(self, error: BaseException) -> None:
        self.abort(Outcome.INTERNAL, f"{type(error).__name__}: {error}")
