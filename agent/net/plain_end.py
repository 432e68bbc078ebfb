"""One socket of a plain relay: what it still has to send, and what may still come from it.

`net.plain_relay` joins two of them and says when both have ended.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.model.outcome import Outcome
from agent.model.unit import PlainValue, State, StateReader
from agent.net.loop import BROKEN, ENDED, READABLE, WRITABLE

if TYPE_CHECKING:
    from agent.net.plain_relay import PlainRelay

MOST_UNREAD_BYTES = 1 << 22
"""Of a backlog that is taken over; one batch is what a relay reads before it waits."""


class PlainEnd:
    """Owned by its relay, which carries bytes to `other` and from it."""

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
        "recv_into",
        "relay",
        "sock",
        "writes",
    )
    __deletable__ = ("other", "relay")

    def __init__(self, relay: PlainRelay, sock: socket.socket, name: str) -> None:
        self.relay = relay
        self.sock = sock
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self.name = name
        self.fd = sock.fileno()
        self.other: PlainEnd = self
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
            size = self.recv_into(buffer)
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

    # -- going on elsewhere

    def freeze(self) -> None:
        """Nothing of it happens any more. Its relay and the other end are not known to it from here on."""
        self.let_go()
        self.is_readable = False
        del self.relay, self.other

    def state(self) -> State:
        """Whatever else there is follows from the socket: what is to be read is announced to who watches it anew."""
        return {
            "backlog": bytes(self.backlog),
            "from_bytes": self.from_bytes,
            "reads": self.reads,
            "writes": self.writes,
        }

    def restore(self, value: PlainValue) -> None:
        """Raises BadUnit."""
        fields = StateReader(f"the {self.name} of a plain relay", value)
        self.backlog += fields.blob("backlog", MOST_UNREAD_BYTES)
        self.from_bytes = fields.integer("from_bytes")
        self.reads = fields.flag("reads")
        self.writes = fields.flag("writes")
        fields.done()
        if self.backlog and not self.writes:
            raise fields.refuse("writes", "it was told its end before its last bytes")
