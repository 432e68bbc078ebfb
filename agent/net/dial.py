"""Connect to a target, as the client where asked: its address, and its port where that is free.

Order of source ports (docs/KERNEL.md#sockets): the client's own, eight explicit random ones, the kernel's
choice last. The kernel's choice skips every port that anybody has bound explicitly, TIME_WAIT included, so it
must not come first.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from agent.model.address import AddressError, SocketAddress, parse_ip
from agent.model.unit import PlainValue, State, StateReader
from agent.net.loop import BROKEN, WRITABLE, Loop, Timer
from agent.net.sockets import IP_BIND_ADDRESS_NO_PORT, SideSockets

RANDOM_TRIES = 8
BROKEN_OR_GONE = BROKEN | select.EPOLLHUP
_NEXT_PORT = (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EACCES)


class DialOwner(Protocol):
    """Who wants the connection. Exactly one of the two is called, once, from the loop."""

    def connected(self, sock: socket.socket) -> None:
        """The socket is the owner's from here on: non-blocking, and still watched by the loop.

        So the owner watches it itself, or has the loop forget it before it is closed.
        """

    def failed(self, target: SocketAddress, error: OSError) -> None:
        """There will be no connection; TimeoutError where nobody answered in time."""


class Dialler:
    """Dials from one side. `random_port` gives source ports to try, `timeout_s` is the limit of one dial.

    `under_way` is shown each socket whose SYN is sent, before anything can have come of it: it has its port then.
    """

    def __init__(
        self,
        loop: Loop,
        sockets: SideSockets,
        random_port: Callable[[], int],
        timeout_s: float,
        under_way: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self.loop = loop
        self.sockets = sockets
        self.random_port = random_port
        self.timeout_s = timeout_s
        self.under_way = under_way

    def dial(self, target: SocketAddress, source: SocketAddress | None, owner: DialOwner) -> Dial:
        """Start to connect; `owner` is never called from inside this call."""
        made = Dial(self, target, source, owner)
        made.start(self.timeout_s)
        return made


class Dial:
    """A connection attempt; nothing happens before `start`."""

    __slots__ = ("_dialler", "_owner", "_sock", "_source", "_target", "_timer", "_tries", "left_s")

    def __init__(
        self, dialler: Dialler, target: SocketAddress, source: SocketAddress | None, owner: DialOwner
    ) -> None:
        self._dialler = dialler
        self._target = target
        self._source = source
        self._owner: DialOwner | None = owner
        self._sock: socket.socket | None = None
        self._tries = 0
        self._timer: Timer | None = None
        self.left_s = 0.0
        """Of its time, for one that was taken over: `start` with that."""

    def start(self, timeout_s: float) -> None:
        self._timer = self._dialler.loop.later(timeout_s, self._on_timeout)
        if self._sock is None:
            self._attempt()
        else:  # its SYN was sent elsewhere; what has come of it is announced
            self._dialler.loop.watch(self._sock.fileno(), self._on_ready, self._on_crash)

    def cancel(self) -> None:
        """Give up: the socket is closed at once, and the owner not called."""
        self._owner = None
        self._stop_timer()
        self._drop()

    # -- going on elsewhere

    @property
    def stays(self) -> str:
        """Why it can only go on here; empty: it may be frozen."""
        return "" if self._sock is not None and self._timer is not None else "its end is known"

    def freeze(self) -> None:
        """Stop without an end, and without a word to the owner: it goes on from `state` and `sock`.

        Where it `stays`, never.
        """
        self._owner = None
        if self._timer is not None:
            self.left_s = max(0.0, self._timer.at_s - self._dialler.loop.now())
        self._stop_timer()
        self._dialler.loop.forget(self.sock.fileno())

    @property
    def sock(self) -> socket.socket:
        assert self._sock is not None, "it stays"
        return self._sock

    def state(self) -> State:
        return {
            "target": str(self._target),
            "source_ip": None if self._source is None else str(self._source.ip),
            "tries": self._tries,
            "left_s": self.left_s,
        }

    @classmethod
    def from_state(cls, dialler: Dialler, value: PlainValue, sock: socket.socket, owner: DialOwner) -> Dial:
        """As `state` was, to `start` with what is left of its time. Raises BadUnit; the socket stays the caller's."""
        fields = StateReader("a dial", value)
        try:
            target = SocketAddress.parse(fields.text("target", 64))
            ip = parse_ip(fields.text("source_ip", 64)) if fields.has("source_ip") else None
        except AddressError as error:
            raise fields.refuse("target", str(error)) from None
        # Its first port had its turn.
        made = cls(dialler, target, None if ip is None else SocketAddress(ip, 0), owner)
        made._tries = fields.integer("tries", 0, RANDOM_TRIES + 1)
        made.left_s = min(fields.number("left_s"), dialler.timeout_s)
        fields.done()
        made._sock = sock
        sock.setblocking(False)
        return made

    def let_go(self) -> None:
        """It goes on elsewhere. Whatever else was done to the socket would be done to it there."""
        self.sock.close()

    # -- attempts

    def _attempt(self) -> None:
        """Try source ports until one is on its way or the answer is final."""
        while True:
            try:
                sock = self._sock = self._dialler.sockets.take(self._family())
                if self._source is not None:
                    self._bind(sock, self._source)
                code = sock.connect_ex((str(self._target.ip), self._target.port))
                if code in (0, errno.EINPROGRESS):
                    # A connect that is already done shows as an edge too, so the owner is called from the loop.
                    self._dialler.loop.watch(sock.fileno(), self._on_ready, self._on_crash)
                    if self._dialler.under_way is not None:
                        self._dialler.under_way(sock)
                    return
            except OSError as error:
                code = error.errno or errno.EIO
            self._drop()
            if not self._may_retry(code):
                self._dialler.loop.soon(partial(self._fail, OSError(code, os.strerror(code))))
                return

    def _family(self) -> int:
        return socket.AF_INET if self._target.ip.version == 4 else socket.AF_INET6

    def _bind(self, sock: socket.socket, source: SocketAddress) -> None:
        port = source.port
        if self._tries > RANDOM_TRIES:
            port = 0
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        elif self._tries or not port:
            port = self._dialler.random_port()
        sock.bind((str(source.ip), port))

    def _may_retry(self, code: int) -> bool:
        if self._source is None or code not in _NEXT_PORT or self._tries > RANDOM_TRIES:
            return False
        self._tries += 1
        return True

    def _on_ready(self, mask: int) -> None:
        sock = self._sock
        if sock is None:
            return
        if mask & WRITABLE and not mask & BROKEN_OR_GONE:
            self._hand_on(sock, mask)
            return
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            try:
                sock.getpeername()
            except OSError:
                return  # still connecting
            self._hand_on(sock, mask)
            return
        self._drop()
        if self._may_retry(code):
            self._attempt()
        else:
            self._fail(OSError(code, os.strerror(code)))

    def _hand_on(self, sock: socket.socket, mask: int) -> None:
        self._stop_timer()
        owner, self._owner, self._sock = self._owner, None, None
        assert owner is not None, "a cancelled dial has no socket"
        self._dialler.loop.pass_on(sock.fileno(), mask, partial(owner.connected, sock))

    def _fail(self, error: OSError) -> None:
        self._stop_timer()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.failed(self._target, error)

    def _on_timeout(self) -> None:
        self._drop()
        self._fail(TimeoutError(errno.ETIMEDOUT, f"no answer from {self._target} in time"))

    def _on_crash(self, error: BaseException) -> None:
        self._drop()
        self._fail(OSError(errno.EIO, f"a defect in ztun: {error}"))

    def _stop_timer(self) -> None:
        # Else the timer would hold the dial, and so its owner, until it is due.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._dialler.loop.leave(sock.fileno())
            sock.close()
