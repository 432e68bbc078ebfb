"""Accept connections from one listener in batches, and stand a full descriptor table without spinning.

Each accepted socket is handed on with both its addresses (canonical: IPv4-mapped becomes IPv4). What the
addresses mean is the receiver's business.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable

from agent.model.address import SocketAddress, SockName
from agent.net.loop import Loop, Timer

OnAccept = Callable[[socket.socket, SocketAddress, SocketAddress], None]

BATCH = 64
"""At most so many in a row."""
SLICE_S = 0.001
"""A batch ends with the connection at which so much time has gone: others wait meanwhile."""
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FULL_PAUSE_S = 0.1


def _no_ceiling() -> int:
    return 1 << 30


class Acceptor:
    """Calls `on_accept(sock, peer, local)` from `start` on; the listener is non-blocking and belongs to it.

    Descriptors are numbered from the lowest free one, so the number of the last says how full the table is: from
    `ceiling()` on nothing more is accepted, and what was accepted finds some for its dials. `on_exhausted()` is called
    each time there was none left for a waiting connection; it stays queued and is tried again after a tenth of a
    second.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        on_accept: OnAccept,
        *,
        ceiling: Callable[[], int] = _no_ceiling,
        on_exhausted: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._ceiling_now = ceiling
        self._ceiling = ceiling()
        self._listener = listener
        # Its own accept() asks the listener for what it is by two enumerations, for each connection.
        self._take = listener._accept  # type: ignore[attr-defined]
        self._kind = int(listener.family), int(listener.type), listener.proto
        self._on_accept = on_accept
        self._on_exhausted = on_exhausted
        self._timer: Timer | None = None
        self._closed = False
        self._batch_size = 1
        """To find that nobody is left costs as much as to accept one: a batch grows while all of it is there."""

    def start(self) -> None:
        # Level-triggered: those that a batch leaves are announced again.
        self._loop.watch(self._listener.fileno(), self._on_ready, mask=select.EPOLLIN)

    def take_what_waits(self) -> None:
        """A batch at once, from a listener that others have next."""
        if not self._closed and self._timer is None:
            self._batch_size = BATCH
            self._batch()

    def take(self, count: int) -> None:
        """So many have been let in just now: they are there, or come by the listener's next event."""
        if not self._closed and self._timer is None:
            usual, self._batch_size = self._batch_size, min(count, BATCH)
            self._batch()
            self._batch_size = usual

    def close(self) -> None:
        """Stop and close the listener. Connections still queued are reset, unless somebody shares it."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    def _on_ready(self, mask: int) -> None:
        self._batch()

    def _batch(self) -> None:
        end_s = self._loop.now() + SLICE_S
        for number in range(self._batch_size):
            if self._closed:
                return
            try:
                fd, peer = self._take()
            except BlockingIOError:
                self._batch_size = max(1, number)
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._wait()
                    return
                if error.errno in (errno.EINVAL, errno.EBADF):
                    raise
                continue  # that one connection failed in the queue (ECONNABORTED and the like)
            self._hand_on(socket.socket(*self._kind, fileno=fd), peer)
            if fd >= self._ceiling and not self._closed:
                self._wait()
                return
            if self._loop.now() >= end_s:
                return
        self._batch_size = min(2 * self._batch_size, BATCH)

    def _hand_on(self, sock: socket.socket, peer: SockName) -> None:
        sock.setblocking(False)
        try:
            local = SocketAddress.from_sockname(sock.getsockname())
            self._on_accept(sock, SocketAddress.from_sockname(peer), local)
        except BaseException:
            sock.close()
            # It costs its connection, and the loop takes the watch away with it.
            self._loop.soon(self._watch_again)
            raise

    def _watch_again(self) -> None:
        if not self._closed and self._timer is None:
            self.start()

    def _wait(self) -> None:
        self._loop.forget(self._listener.fileno())
        self._timer = self._loop.later(FULL_PAUSE_S, self._retry)
        if self._on_exhausted is not None:
            self._on_exhausted()

    def _retry(self) -> None:
        self._timer = None
        if self._closed:
            return
        # Somebody may have given this process more since.
        self._ceiling = self._ceiling_now()
        if self._has_room():
            self.start()
        else:
            self._wait()

    def _has_room(self) -> bool:
        """Whether the next descriptor lies below the ceiling; found by taking it."""
        try:
            fd = os.dup(self._listener.fileno())
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        os.close(fd)
        return fd < self._ceiling
