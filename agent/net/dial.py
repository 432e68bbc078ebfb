"""Connect to a target, as the client where asked: its address, and its port where that is free.

Order of source ports (docs/KERNEL.md#sockets): the client's own, eight explicit random ones, the kernel's
choice last. The kernel's choice skips every port that anybody has bound explicitly, TIME_WAIT included, so it
must not come first.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial

from agent.model.address import SocketAddress
from agent.net.loop import Loop
from agent.net.sockets import IP_BIND_ADDRESS_NO_PORT, SideSockets

RANDOM_TRIES = 8
DEFAULT_TIMEOUT_S = 10.0
_NEXT_PORT = (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EACCES)

Done = Callable[["socket.socket | OSError"], None]


def dial(
    loop: Loop,
    sockets: SideSockets,
    target: SocketAddress,
    *,
    source: SocketAddress | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    random_port: Callable[[], int],
    done: Done,
) -> Dial:
    """Start to connect. `done` gets the connected socket, or the OSError (TimeoutError after `timeout_s`).

    It is called exactly once, from the loop and never from inside this call, unless `cancel()` comes first.
    """
    return Dial(loop, sockets, target, source, timeout_s, random_port, done)


class Dial:
    """A connection attempt under way; see `dial`."""

    __slots__ = (
        "_done",
        "_loop",
        "_random_port",
        "_sock",
        "_sockets",
        "_source",
        "_target",
        "_timer",
        "_tries",
    )

    def __init__(
        self,
        loop: Loop,
        sockets: SideSockets,
        target: SocketAddress,
        source: SocketAddress | None,
        timeout_s: float,
        random_port: Callable[[], int],
        done: Done,
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._target = target
        self._source = source
        self._random_port = random_port
        self._done: Done | None = done
        self._sock: socket.socket | None = None
        self._tries = 0
        self._timer = loop.later(timeout_s, self._on_timeout)
        self._attempt()

    def cancel(self) -> None:
        """Give up; `done` will not be called."""
        self._timer.cancel()
        self._done = None
        self._drop()

    def _attempt(self) -> None:
        """Try source ports until one is on its way or the answer is final."""
        while True:
            try:
                sock = self._sock = self._sockets.take(self._family())
                if self._source is not None:
                    self._bind(sock, self._source)
                code = sock.connect_ex((str(self._target.ip), self._target.port))
            except OSError as error:
                code = error.errno or errno.EIO
            if code in (0, errno.EINPROGRESS):
                # A connect that is already done shows as an edge too, so `done` comes from the loop.
                self._loop.watch(sock.fileno(), self._on_ready, self._on_crash)
                return
            self._drop()
            if not self._may_retry(code):
                self._loop.soon(partial(self._finish, OSError(code, os.strerror(code))))
                return

    def _family(self) -> int:
        return socket.AF_INET if self._target.ip.version == 4 else socket.AF_INET6

    def _bind(self, sock: socket.socket, source: SocketAddress) -> None:
        port = source.port
        if self._tries > RANDOM_TRIES:
            port = 0
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        elif self._tries or not port:
            port = self._random_port()
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
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            try:
                sock.getpeername()
            except OSError:
                return  # an edge of a former owner of this descriptor number: still connecting
            self._sock = None
            self._finish(sock)
            return
        self._drop()
        if self._may_retry(code):
            self._attempt()
        else:
            self._finish(OSError(code, os.strerror(code)))

    def _finish(self, result: socket.socket | OSError) -> None:
        self._timer.cancel()
        done, self._done = self._done, None
        if isinstance(result, socket.socket):
            self._loop.forget(result.fileno())
            if done is None:
                result.close()
        if done is not None:
            done(result)

    def _on_timeout(self) -> None:
        self._drop()
        self._finish(TimeoutError(errno.ETIMEDOUT, f"no answer from {self._target} in time"))

    def _on_crash(self, error: BaseException) -> None:
        self._drop()

    def _drop(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.forget(sock.fileno())
            sock.close()
