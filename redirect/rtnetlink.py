"""Links and namespace ids as the kernel tells them, read raw: a node has hundreds of them and they are read often.

pyroute2 decodes every attribute of every link (150 us each); this reads the five that tell whose a veth is. A dump
that the kernel interrupted is read again, never taken for whole: a link that is missing from it would count as gone.
In the calling thread's network namespace. Layouts: include/uapi/linux/rtnetlink.h, if_link.h, net_namespace.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RTM_NEWLINK, RTM_GETLINK, RTM_NEWNSID, RTM_GETNSID = 16, 18, 88, 90
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 1, 0x300, 0x10
IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, IFLA_STATS64, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 3, 5, 18, 23, 29, 37
IFLA_INFO_KIND = 1
RTEXT_FILTER_SKIP_STATS = 8
NETNSA_NSID, NETNSA_FD = 1, 3
NESTED_MASK = 0x3FFF
IFF_LOWER_UP = 0x10000
DUMP_ATTEMPTS = 20
_RECEIVE_BYTES = 1 << 18

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")
_U64 = struct.Struct("=Q")
_GENERAL = struct.Struct("=Bxxx")

Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One interface. `peer` and `peer_nsid`: a veth's other end; no nsid: in the same namespace.

    `is_up`: packets can pass, both ends are up. `received`: packets that came in by it, 0 in lists.
    """

    ifindex: int
    ifname: str
    kind: str = ""
    peer: int = 0
    peer_nsid: int | None = None
    is_up: bool = False
    received: int = 0


def links() -> dict[int, LinkRow]:
    """Every interface by its index: `ip link show`. Raises OSError."""
    mask = _attribute(IFLA_EXT_MASK, _U32.pack(RTEXT_FILTER_SKIP_STATS))
    rows = (_row(body) for body in _ask(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + mask, NLM_F_DUMP))
    return {row.ifindex: row for row in rows}


def link(ifindex: int) -> LinkRow | None:
    """One interface, with its counter: `ip -s link show dev IF`; None when there is none. Raises OSError."""
    try:
        (body,) = _ask(RTM_GETLINK, _LINK.pack(0, 0, ifindex, 0, 0))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
    return _row(body)


def nsid(path: Path) -> int | None:
    """The number by which this namespace knows another; None: it has none. Raises OSError for a path that is none."""
    with path.open("rb") as namespace:
        request = _GENERAL.pack(0) + _attribute(NETNSA_FD, _U32.pack(namespace.fileno()))
        (body,) = _ask(RTM_GETNSID, request)
    (found,) = _S32.unpack(_attributes(body[_GENERAL.size :])[NETNSA_NSID])
    return found if found >= 0 else None


def _row(body: bytes) -> LinkRow:
    _, _, ifindex, flags, _ = _LINK.unpack_from(body)
    found = _attributes(body[_LINK.size :])
    info = _attributes(found.get(IFLA_LINKINFO, b""))
    stats = found.get(IFLA_STATS64)
    return LinkRow(
        ifindex,
        _text(found[IFLA_IFNAME]),
        _text(info.get(IFLA_INFO_KIND, b"")),
        _U32.unpack(found[IFLA_LINK])[0] if IFLA_LINK in found else 0,
        _S32.unpack(found[IFLA_LINK_NETNSID])[0] if IFLA_LINK_NETNSID in found else None,
        bool(flags & IFF_LOWER_UP),
        _U64.unpack_from(stats)[0] if stats else 0,
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _attributes(raw: bytes) -> Attributes:
    found: Attributes = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & NESTED_MASK] = raw[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _ask(kind: int, payload: bytes, flags: int = 0) -> list[bytes]:
    """The bodies of all messages of the answer."""
    for _ in range(DUMP_ATTEMPTS):
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        ) as sock:
            header = _HEADER.pack(_HEADER.size + len(payload), kind, NLM_F_REQUEST | flags, 1, 0)
            sock.send(header + payload)
            bodies, is_whole = _answer(sock, is_dump=bool(flags))
        if is_whole:
            return bodies
    raise OSError(errno.EAGAIN, "the kernel's links change too fast to be listed")


def _answer(sock: socket.socket, *, is_dump: bool) -> tuple[list[bytes], bool]:
    bodies: list[bytes] = []
    is_whole = True
    while True:
        for kind, flags, body in _messages(sock.recv(_RECEIVE_BYTES)):
            is_whole &= not flags & NLM_F_DUMP_INTR
            if kind == NLMSG_DONE:
                return bodies, is_whole
            if kind == NLMSG_ERROR:
                (code,) = _S32.unpack_from(body)
                raise OSError(-code, os.strerror(-code))
            bodies.append(body)
        if not is_dump:
            return bodies, True


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
