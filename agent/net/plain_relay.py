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
from agent.model.unit import PlainValue, State, StateReader
from agent.net.farewell import close
from agent.net.loop import Loop, Timer
from agent.net.pacing import Allowance, PacedSocket
from agent.net.parting import PATIENCE_S, Parting
from agent.net.plain_end import PlainEnd
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
        self._client = PlainEnd(self, client, "client")
        self._server = PlainEnd(self, server, "server")
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
            if end.backlog:  # of a relay that was taken over
                end.count()

    def pace(self, allowance: Allowance) -> list[PacedSocket]:
        """Read no more from now on than is allowed, of both ends together."""
        paced: list[PacedSocket] = []
        for end in (self._client, self._server):
            paced.append(PacedSocket(end.sock, allowance, end.on_ready))
            end.recv_into = paced[-1].recv_into
        return paced

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

    def again(self, end: PlainEnd) -> None:
        self._loop.soon(end.pump)

    @property
    def is_finished(self) -> bool:
        return not any(end.reads or end.writes for end in (self._client, self._server))

    def finish_if_ended(self) -> None:
        if not self.is_over and self.is_finished:
            self._finish(reset=False)

    # -- one end's connection breaks

    def hurry(self, end: PlainEnd) -> None:
        """What this end sent before it broke is awaited only as long as the other end takes of it."""
        left_of = partial(self._on_patience, end, end.from_bytes - len(end.other.backlog))
        self._timer = self._loop.later(PATIENCE_S, left_of)

    def _on_patience(self, end: PlainEnd, carried: int) -> None:
        if end.from_bytes - len(end.other.backlog) > carried:
            self.hurry(end)
        else:
            why = loss(end.name, end.lost)
            self.abort(why.outcome, why.detail)

    def part(self, end: PlainEnd, *, ends_first: bool) -> None:
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

    # -- going on elsewhere

    @property
    def stays(self) -> str:
        """Why it can only go on here; empty: it may be frozen."""
        if self.is_over:
            return "it has ended, and its last bytes are being delivered"
        broken = self._client if self._client.lost else self._server
        return f"the connection of its {broken.name} broke" if broken.lost else ""

    def freeze(self) -> None:
        """Stop without an end, and without a word to the owner: it goes on from `state` and `sockets`.

        Elsewhere, or here by another relay. Where it `stays`, never.
        """
        self._stop()
        del self._owner
        for end in (self._client, self._server):
            # Before another process has it: an epoll keeps watching what is open anywhere.
            self._loop.forget(end.fd)
            end.freeze()

    @property
    def unread_bytes(self) -> int:
        """Most of what its state takes."""
        return len(self._client.backlog) + len(self._server.backlog)

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """The client's and the server's."""
        return self._client.sock, self._server.sock

    def state(self) -> State:
        return {"client": self._client.state(), "server": self._server.state()}

    @classmethod
    def from_state(
        cls,
        loop: Loop,
        value: PlainValue,
        client: socket.socket,
        server: socket.socket,
        owner: PlainRelayOwner,
    ) -> PlainRelay:
        """As `state` was, not started. Raises BadUnit; the sockets stay the caller's then."""
        fields = StateReader("a plain relay", value)
        made = cls(loop, client, server, owner)
        made._client.restore(fields.value("client"))
        made._server.restore(fields.value("server"))
        fields.done()
        for end in (made._client, made._server):
            other = end.other
            if other.writes == (not end.reads and not other.backlog) or end.from_bytes < len(other.backlog):
                raise fields.refuse(end.name, "what it has sent and what its other end was told do not agree")
            end.sock.setblocking(False)
        if made.is_finished:
            raise fields.refuse("client", "both directions have ended")
        return made

    def let_go(self) -> None:
        """It goes on elsewhere. Whatever else was done to the sockets would be done to it there."""
        for end in (self._client, self._server):
            end.sock.close()
