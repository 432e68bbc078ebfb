"""Sockets of the data path, born in the network namespace whose side they speak to.

A socket belongs for ever to the namespace of the thread that made it, and a namespace is entered per thread
(setns(2)). So one thread enters once, at start, while CAP_SYS_ADMIN is there, and keeps a small stock of
fresh sockets for the loop's thread to take. Options: docs/WIRE.md#sockets and docs/KERNEL.md#sockets.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

KEEPALIVE_IDLE_S = 180
KEEPALIVE_INTERVAL_S = 180
KEEPALIVE_PROBES = 9

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
IP_BIND_ADDRESS_NO_PORT = 24
IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR = 20, 74
"""The options, and the kinds of what comes beside a datagram then."""
SO_RCVBUFFORCE, SO_RXQ_OVFL = 33, 40
DATAGRAM = 1 << 12
"""Beside a family: a socket of UDP is meant."""
DATAGRAM_QUEUE_BYTES = 16 << 20
"""What may wait for a worker, some 20,000 queries: the time in which one that died is replaced."""
RESETS, ENDS_IN_ORDER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""Values of SO_LINGER: what close() does to the peer."""
_CLONE_NEWNET = 0x40000000
_FLAGS = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_DATAGRAM_FLAGS = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
FAMILIES = (socket.AF_INET, socket.AF_INET6)

_libc = ctypes.CDLL(None, use_errno=True)
# Python's own socket() lets go of the interpreter lock. In the thread that fills the stock that costs several
# switches per socket, as the loop's thread wants the lock back after each of its calls; this one keeps it.
_libc_locked = ctypes.PyDLL(None, use_errno=True)
T = TypeVar("T")


def enter_netns(path: str) -> None:
    """Move the calling thread, and no other, into a network namespace."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter the network namespace: {os.strerror(code)}", path)
    finally:
        os.close(fd)


def was_destroyed(error: int) -> bool:
    """Whether this errno of a socket says that sock_diag(7) destroyed it, which we ask for when a pod leaves."""
    return error == errno.ECONNABORTED


def set_stream_options(sock: socket.socket) -> None:
    """What every TCP socket of the proxy has: no delay, keepalive against silent peers, and no end by accident.

    The kernel closes the sockets of a process that is killed, and a FIN would tell an application that all is there.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def set_transparent(sock: socket.socket) -> None:
    """Bind to, and accept for, addresses that are not local. Needs CAP_NET_RAW or CAP_NET_ADMIN."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def _fresh(family: int, transparent: bool) -> socket.socket:
    if family & DATAGRAM:
        return _fresh_datagram(family & ~DATAGRAM, transparent)
    fd = _libc_locked.socket(family, _FLAGS, 0)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    sock = socket.socket(family, _FLAGS, 0, fileno=fd)
    try:
        set_stream_options(sock)
        if transparent:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            set_transparent(sock)
    except OSError:
        sock.close()
        raise
    return sock


def _fresh_datagram(family: int, transparent: bool) -> socket.socket:
    sock = socket.socket(family, _DATAGRAM_FLAGS)
    try:
        if transparent:
            set_transparent(sock)
    except OSError:
        sock.close()
        raise
    return sock


class SideSockets:
    """Fresh, non-blocking sockets of one namespace (None: the current one): of TCP, or of UDP where that is asked for.

    The constructor returns once the namespace is entered, or raises OSError naming it. `once_inside` then runs
    in the thread that stays there: it may give up the rights that only entering took.
    """

    def __init__(
        self,
        netns_path: str | None,
        *,
        transparent: bool = False,
        stock: int = 32,
        once_inside: Callable[[], None] | None = None,
    ) -> None:
        self.netns_path = netns_path
        self._once_inside = once_inside
        self._transparent = transparent
        self._stock_size = stock
        self._stock: dict[int, deque[socket.socket]] = {
            int(family) | kind: deque() for family in FAMILIES for kind in (0, DATAGRAM)
        }
        self._wishes: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[OSError | socket.socket | None] = queue.SimpleQueue()
        self._maker: threading.Thread | None = None
        if netns_path is not None:
            self._maker = threading.Thread(
                target=self._serve, args=(netns_path,), name="ztun-sockets", daemon=True
            )
            self._maker.start()
            answer = self._answers.get()
            if isinstance(answer, OSError):
                self._maker.join()
                raise answer

    def take(self, family: int) -> socket.socket:
        """A socket nobody used yet, of TCP, or with DATAGRAM beside the family of UDP.

        Raises OSError (EMFILE, ENFILE, EAFNOSUPPORT, EPERM).
        """
        if self._maker is None:
            return _fresh(family, self._transparent)
        stock = self._stock[family]
        if len(stock) == self._stock_size // 2:
            self._wishes.put(-family)
        try:
            return stock.popleft()
        except IndexError:
            self._wishes.put(family)
        answer = self._answers.get()
        if isinstance(answer, socket.socket):
            return answer
        raise answer or OSError("the thread of the namespace is gone")

    def close(self) -> None:
        """End the thread and close what is in stock."""
        if self._maker is not None:
            self._wishes.put(None)
            self._maker.join()
        for stock in self._stock.values():
            while stock:
                stock.popleft().close()

    def _serve(self, path: str) -> None:
        try:
            enter_netns(path)
            if self._once_inside is not None:
                self._once_inside()
        except OSError as error:
            self._answers.put(error)
            return
        self._answers.put(None)
        while (wish := self._wishes.get()) is not None:
            family = abs(wish)
            if wish > 0:
                self._answers.put(self._try(family))
            self._refill(family)

    def _try(self, family: int) -> socket.socket | OSError:
        try:
            return _fresh(family, self._transparent)
        except OSError as error:
            return error

    def _refill(self, family: int) -> None:
        stock = self._stock[family]
        while len(stock) < self._stock_size:
            made = self._try(family)
            if isinstance(made, OSError):
                return  # whoever needs one asks for it, and gets the reason
            stock.append(made)


def open_listener(
    netns_path: str | None,
    port: int,
    *,
    transparent: bool,
    reuse_port: bool,
    backlog: int = 4096,
    address: str = "::",
) -> socket.socket:
    """A non-blocking listener, dual stack at `::` (IPv4 only where the kernel has no IPv6)."""
    return in_netns(netns_path, lambda: _listen(port, transparent, reuse_port, backlog, address))


def open_datagrams(netns_path: str | None, port: int) -> socket.socket:
    """A non-blocking socket for what pods send to this port of whomever, as `open_listener` has them for connections.

    Each datagram says for whom it was, and answers may leave in that one's name. Raises OSError.
    """
    return in_netns(netns_path, lambda: _take_datagrams(port))


def _take_datagrams(port: int) -> socket.socket:
    try:
        sock, address = socket.socket(socket.AF_INET6, _DATAGRAM_FLAGS), "::"
    except OSError:
        sock, address = socket.socket(socket.AF_INET, _DATAGRAM_FLAGS), "0.0.0.0"
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, DATAGRAM_QUEUE_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        set_transparent(sock)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def in_netns(path: str | None, work: Callable[[], T]) -> T:
    """Run `work` in a short-lived thread inside a network namespace; its result or exception is ours."""
    if path is None:
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter_netns(path)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="ztun-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _listen(port: int, transparent: bool, reuse_port: bool, backlog: int, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, _FLAGS)
    except OSError:
        if address != "::":
            raise
        family, address = socket.AF_INET, "0.0.0.0"
        sock = socket.socket(family, _FLAGS)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if transparent:
            set_transparent(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)  # a dual-stack socket has both
        # Accepted sockets inherit these, which saves six calls per connection.
        set_stream_options(sock)
        sock.bind((address, port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock
