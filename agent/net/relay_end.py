"""How a relay between an application's socket and a tunnel ends, whichever side ends it.

Ends and resets map as docs/WIRE.md#ends: each direction ends by itself, an end is an end and a reset a reset at the
other side, and what came before it is delivered before it. What is carried until then is `net.relay`'s.
"""

from __future__ import annotations

import errno
import socket
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.model.outcome import Outcome, Refusal
from agent.net.farewell import close
from agent.net.loop import Loop, Timer
from agent.net.pacing import Allowance, PacedSocket
from agent.net.parting import PATIENCE_S, Parting
from agent.net.plain_relay import loss
from agent.net.tunnel import Tunnel, reset_code

if TYPE_CHECKING:
    from agent.net.relay import TunnelRelayOwner


class EndingRelay:
    """Not used alone: see `relay.TunnelRelay`.

    `sent_bytes` went from the client to the server, `received_bytes` back, whichever end this is; both may
    be read at any time. `error` is empty when the connection ended as one may.
    """

    __slots__ = (
        "_backlog",
        "_backlogs",
        "_carried",
        "_down_bytes",
        "_down_open",
        "_ended",
        "_fd",
        "_hears_room",
        "_is_over",
        "_is_readable",
        "_is_waiting",
        "_link",
        "_loop",
        "_lost",
        "_owner",
        "_paced",
        "_parting",
        "_patience_left_s",
        "_recv_into",
        "_send",
        "_send_pieces",
        "_sock",
        "_stage",
        "_stream",
        "_timer",
        "_tunnel",
        "_up_bytes",
        "_up_open",
        "error",
        "outcome",
    )
    __deletable__ = ("_owner",)

    def __init__(self, loop: Loop, sock: socket.socket, tunnel: Tunnel, owner: TunnelRelayOwner) -> None:
        assert tunnel.stream is not None, "a tunnel has a stream once it was requested or answered"
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._recv_into: Callable[[memoryview], int] = sock.recv_into
        self._send: Callable[[bytes | bytearray | memoryview], int] = sock.send
        self._send_pieces: Callable[[Sequence[memoryview]], int] = sock.sendmsg
        self._paced: PacedSocket | None = None
        self._tunnel = tunnel
        self._link = tunnel.link
        self._stage = tunnel.link.stage
        self._stream = tunnel.stream
        self._owner = owner
        self._backlog = bytearray()
        self._backlogs = loop.backlogs
        self._up_bytes = self._down_bytes = 0
        self._up_open = self._down_open = True
        self._hears_room = False
        """Whether it is told when the socket takes bytes again."""
        self._ended = self._is_over = self._is_readable = self._is_waiting = False
        self._lost = 0
        """The error by which the application's connection broke. What it had sent before is still carried."""
        self._parting: Parting | None = None
        self._timer: Timer | None = None
        self._carried = 0
        self._patience_left_s = PATIENCE_S
        self.outcome = Outcome.OK
        self.error = ""

    @property
    def sent_bytes(self) -> int:
        return self._down_bytes if self._tunnel.is_server else self._up_bytes

    @property
    def received_bytes(self) -> int:
        return self._up_bytes if self._tunnel.is_server else self._down_bytes

    @property
    def group(self) -> object:
        """The connection that its backlog came over."""
        return self._link

    def abort(self, outcome: Outcome = Outcome.RESET, detail: str = "") -> None:
        """End both sides now: RST to the application, RST_STREAM to the peer with the code of the outcome."""
        if self._parting is not None:
            self._parting.cut()
            self._drop_backlog()
        elif not self._is_over:
            self._fail(outcome, detail or outcome.hint)

    @abstractmethod
    def _pump(self) -> None:
        """One batch from the socket into the tunnel."""

    @abstractmethod
    def resume(self) -> None:
        """More may be sent."""

    @abstractmethod
    def deliver(self, pieces: list[memoryview], size: int, ended: bool) -> None:
        """Bytes from the tunnel, valid during the call."""

    @abstractmethod
    def _tell(self) -> None:
        """It is over, and the owner hears of it."""

    @abstractmethod
    def _end_down(self) -> None:
        """The tunnel's end has come, and everything before it was delivered."""

    def pace(self, allowance: Allowance) -> list[PacedSocket]:
        """Carry no more from now on than is allowed, in both directions together."""
        paced = self._paced = PacedSocket(self._sock, allowance, self._on_ready)
        self._recv_into, self._send, self._send_pieces = paced.recv_into, paced.send, paced.send_pieces
        return [paced]

    @abstractmethod
    def _on_ready(self, mask: int) -> None:
        """The socket may be read, or written."""

    # -- the application's connection breaks

    def _on_broken(self) -> None:
        """An edge says so. Without an error it is one of a former owner of this descriptor number."""
        if error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose(error)

    def _lose(self, error: int) -> None:
        """Nothing can be delivered any more; what the application sent before is still in the socket's queue."""
        if self._lost or self._is_over:
            return
        self._lost = error
        self._drop_backlog()
        if not self._up_open:
            self._fail_lost()
            return
        self._is_readable = self._ended = True
        self._carried = self._up_bytes
        self._hurry()
        if not self._is_waiting:
            self._loop.soon(self._pump)

    def _hurry(self) -> None:
        self._timer = self._loop.later(self._patience_left_s, self._on_patience)

    def _on_patience(self) -> None:
        """The peer that gives no credit for the rest must not keep the reset from it."""
        if self._up_bytes == self._carried:
            self._fail_lost()
        else:
            self._carried, self._patience_left_s = self._up_bytes, PATIENCE_S
            self._hurry()

    def _fail_lost(self) -> None:
        if self._is_over:
            return
        # The kernel says EPIPE for a reset that came after a FIN: that direction has ended in order, so say it.
        if self._lost == errno.EPIPE and self._up_open:
            self._link.end_stream(self._stream)
        why = loss("server" if self._tunnel.is_server else "client", self._lost)
        self._fail(why.outcome, why.detail)

    # -- the end

    def reset(self, why: Refusal, is_clean: bool) -> None:
        """The tunnel is gone; the application is given what came before that."""
        if self._is_over:
            return
        if is_clean and not self._down_open and not self._lost:
            # Its direction had ended: whoever is there only says that nobody reads ours.
            self._up_open = False
            if not self._backlog:
                self._end_down()
            return
        self.outcome, self.error = why.outcome, why.detail
        if self._lost:
            self._finish(reset=True)
            return
        ends_first = not self._down_open
        self._stop()
        self._parting = Parting(
            self._loop,
            self._sock,
            self._backlog,
            ends_first=ends_first,
            sent=self._on_sent,
            done=self._on_parted,
        )

    def _on_sent(self, size: int) -> None:
        if self._paced is not None:
            self._paced.charge(size)
        self._backlogs.release(self, size)
        self._down_bytes += size
        self._link.consumed(self._stream, size)

    def _on_parted(self) -> None:
        self._parting = None
        self._drop_backlog()
        self._tell()

    def _finish_if_ended(self) -> None:
        if not self._up_open and not self._down_open and not self._backlog and not self._is_over:
            self._tunnel.is_gone = True
            self._finish(reset=False)

    def _fail(self, outcome: Outcome, detail: str) -> None:
        self.outcome, self.error = outcome, detail
        self._drop_backlog()
        self._tunnel.reset(reset_code(outcome))
        self._finish(reset=True)

    def _drop_backlog(self) -> None:
        if self._backlog:
            self._backlogs.release(self, len(self._backlog))
            self._link.consumed(self._stream, len(self._backlog))
            self._backlog = bytearray()

    def _stop(self) -> None:
        """Carry nothing more. The socket stays open."""
        self._is_over = True
        self._up_open = self._down_open = False
        if self._is_waiting:
            self._link.waiters.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._tunnel.sink = self._stream.owner = None

    def _finish(self, *, reset: bool) -> None:
        self._stop()
        self._loop.leave(self._fd)
        close(self._sock, reset=reset)
        self._loop.soon(self._tell)

    def _on_crash(self, error: BaseException) -> None:
        if not self._is_over:
            self._fail(Outcome.INTERNAL, f"{type(error).__name__}: {error}")
