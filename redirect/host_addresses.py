"""The node's own addresses and interfaces, and news that they changed.

Traffic with an address of the node itself is treated apart (docs/KERNEL.md#host-traffic), so the set must
follow the kernel. The news carries no content: whoever hears it reads the set anew. In the calling thread's
namespace.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from dataclasses import dataclass
from enum import Enum

from redirect import observe, rt_rows
from redirect.layout import IP

# include/uapi/linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x8 | 0x10 | 0x100
_HEADER = struct.Struct("=IHHII")
_IFINDEX = struct.Struct("=4xi")
"""In every message that is read here."""
_SCOPE = struct.Struct("=BxxB")
_OF_ONE_LINK = (socket.AF_INET6, 253)
"""Family and scope (RT_SCOPE_LINK) of an ifaddrmsg."""
RTM_NEWLINK = 16
_RECEIVE_BYTES = 1 << 16
_ANCILLARY_BYTES = 64
_READS = 256
_BUFFER_BYTES = 1 << 20
SOL_NETLINK, NETLINK_LISTEN_ALL_NSID = 270, 8
SO_RCVBUFFORCE = 33


class News(Enum):
    """What has changed."""

    LINKS = "links"
    ADDRESSES = "addresses"
    FILTERS = "filters"


_KINDS = {
    **dict.fromkeys((16, 17), News.LINKS),  # RTM_NEWLINK, DELLINK
    **dict.fromkeys((20, 21), News.ADDRESSES),  # RTM_NEWADDR, DELADDR
    **dict.fromkeys((36, 37, 44, 45), News.FILTERS),  # RTM_NEWQDISC, DELQDISC, NEWTFILTER, DELTFILTER
}


@dataclass(frozen=True, slots=True)
class Heard:
    """What changed: here, and the numbers of other namespaces in which something did.

    `links`: the interfaces of this namespace that are new or changed; `touched`: those whose links or filters are, also
    where they are gone. `is_lossy`: the kernel had to drop messages, so
    anything may have changed anywhere.
    """

    news: frozenset[News] = frozenset()
    elsewhere: frozenset[int] = frozenset()
    links: frozenset[int] = frozenset()
    is_lossy: bool = False
    touched: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.news or self.elsewhere)


def local() -> frozenset[IP]:
    """Every address by which pods know this node: `ip addr show`, without loopback and fe80::/10.

    Each veth brings an fe80 address of its own; what the node sends from there is known by its flow.
    """
    found = {address for _, address in rt_rows.addresses()}
    return frozenset(
        each for each in found if not each.is_loopback and not (each.version == 6 and each.is_link_local)
    )


def interfaces() -> frozenset[int]:
    """The ifindexes of this namespace."""
    return frozenset(observe.interfaces())


class Watch:
    """A netlink subscription, for an event loop: read it when `fileno()` is readable. Close it.

    `hears_elsewhere`: also of the namespaces that this one knows by a number. Takes CAP_NET_BROADCAST.
    """

    def __init__(self) -> None:
        self._netlink = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            # Pods make news too: what they do in their namespaces must not push out the node's own.
            self._netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER_BYTES)
            self.hears_elsewhere = self._listen_elsewhere()
            self._netlink.bind((0, _GROUPS))
        except BaseException:
            self._netlink.close()
            raise

    def fileno(self) -> int:
        return self._netlink.fileno()

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> Heard:
        """What changed since the last call. Never blocks, and ends also when more comes than can be read."""
        news: set[News] = set()
        elsewhere: set[int] = set()
        links: set[int] = set()
        touched: set[int] = set()
        is_lossy = False
        for _ in range(_READS):
            try:
                data, ancillary, _, _ = self._netlink.recvmsg(_RECEIVE_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                news.update(News)
                is_lossy = True
                continue
            kinds, changed, about = _kinds(data)
            nsid = _nsid(ancillary)
            if nsid is None:
                news |= kinds
                links |= changed
                touched |= about
            elif kinds:
                elsewhere.add(nsid)
        return Heard(frozenset(news), frozenset(elsewhere), frozenset(links), is_lossy, frozenset(touched))

    def _listen_elsewhere(self) -> bool:
        try:
            self._netlink.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        except PermissionError:
            return False
        return True


def _nsid(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The namespace that a message is about; None: our own."""
    for level, kind, raw in ancillary:
        if (level, kind) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID):
            return int.from_bytes(raw[:4], sys.byteorder, signed=True)
    return None


def _kinds(data: bytes) -> tuple[set[News], set[int], set[int]]:
    """Of what kinds the messages of a datagram are, which links are new or changed, and which are touched at all."""
    found, links, touched = set(), set(), set()
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        news = _KINDS.get(kind)
        if news is News.ADDRESSES and _SCOPE.unpack_from(data, _HEADER.size) == _OF_ONE_LINK:
            # fe80::, which each veth brings and `local` leaves out: news of that link, and not of the node's addresses.
            news = News.LINKS
        if news is not None:
            found.add(news)
            if news is not News.ADDRESSES:
                touched.add(_IFINDEX.unpack_from(data, _HEADER.size)[0])
        if kind == RTM_NEWLINK:
            links.add(_IFINDEX.unpack_from(data, _HEADER.size)[0])
        data = data[(length + 3) & ~3 :]
    return found, links, touched
