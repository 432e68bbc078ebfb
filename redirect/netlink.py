"""Asks rtnetlink and takes its answers apart: the part that links, routes, filters and counters have in common.

Raw, because pyroute2 decodes every attribute of every message, which takes a hundred times longer than reading the
few that are wanted. A dump that the kernel interrupted is read again, and one that failed half way is an error:
neither is taken for whole, as what is missing from it would count as gone. In the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NETLINK_GET_STRICT_CHK = 12
"""Linux 4.20: the kernel lists what the header of the question says, and no more."""
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NESTED_MASK = 0x3FFF
DUMP_ATTEMPTS = 20
_RECEIVE_BYTES = 1 << 18
_SOL_NETLINK = 270

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_S32 = struct.Struct("=i")

Attributes = dict[int, bytes]


class _Shared(threading.local):
    """A socket that several questions of a thread go by: each is answered to its end before the next is asked."""

    sock: socket.socket | None = None


_shared = _Shared()


def ask(
    kind: int,
    payload: bytes,
    flags: int = 0,
    *,
    protocol: int = socket.NETLINK_ROUTE,
    at_most: int | None = None,
    is_strict: bool = False,
) -> list[bytes]:
    """The bodies of all messages of the answer; with NLM_F_DUMP, of a list, with NLM_F_ACK, none. Raises OSError.

    A list that is longer than `at_most` is not read to its end. `is_strict`: of one interface alone, where the question
    names it.
    """
    is_usual = protocol == socket.NETLINK_ROUTE and at_most is None and not is_strict
    shared = _shared.sock if is_usual else None
    for _ in range(DUMP_ATTEMPTS):
        with _opened(protocol) if shared is None else nullcontext(shared) as sock:
            if is_strict:
                sock.setsockopt(_SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            header = _HEADER.pack(_HEADER.size + len(payload), kind, NLM_F_REQUEST | flags, 1, 0)
            sock.send(header + payload)
            bodies, is_whole = _answer(sock, is_dump=flags & NLM_F_DUMP == NLM_F_DUMP, at_most=at_most)
        if is_whole:
            return bodies
    raise OSError(errno.EAGAIN, "what the kernel has changes too fast to be listed")


@contextmanager
def one_socket() -> Iterator[None]:
    """What the calling thread asks rtnetlink inside goes by one socket, of the namespace that it stays in meanwhile."""
    with _opened(socket.NETLINK_ROUTE) as sock:
        _shared.sock = sock
        try:
            yield
        finally:
            _shared.sock = None


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a request, padded to where the next may begin."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(raw: bytes) -> Attributes:
    """Attributes by their type; of a type that comes twice, the last."""
    return dict(each_attribute(raw))


def each_attribute(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute, in order: for lists, whose elements share a type."""
    at = 0
    while at + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < _ATTRIBUTE.size:
            break
        yield kind & NESTED_MASK, raw[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def spans(raw: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of the value of each attribute between two places of a message."""
    at = start
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < _ATTRIBUTE.size:
            break
        yield kind & NESTED_MASK, at + _ATTRIBUTE.size, at + length
        at += (length + 3) & ~3


def text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _opened(protocol: int) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)


def _answer(sock: socket.socket, *, is_dump: bool, at_most: int | None = None) -> tuple[list[bytes], bool]:
    bodies: list[bytes] = []
    is_whole = True
    while True:
        for kind, flags, body in messages(sock.recv(_RECEIVE_BYTES)):
            is_whole &= not flags & NLM_F_DUMP_INTR
            if kind not in (NLMSG_DONE, NLMSG_ERROR):
                bodies.append(body)
                continue
            # A list that failed half way, or before its first row, ends like a whole one, but for the error in its end.
            (code,) = _S32.unpack_from(body)
            if code < 0:
                raise OSError(-code, os.strerror(-code))
            return bodies, is_whole or kind == NLMSG_ERROR
        if not is_dump or (at_most is not None and len(bodies) >= at_most):
            return bodies, True


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
