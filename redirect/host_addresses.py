"""The node's own addresses and interfaces, and news that they changed.

Traffic with an address of the node itself is treated apart (docs/KERNEL.md#host-traffic), so the set must
follow the kernel. The news carries no content: whoever hears it reads the set anew. In the calling thread's
namespace.
"""

from __future__ import annotations

import errno
import socket
import struct
from enum import Enum

from redirect import observe, rt_rows
from redirect.layout import IP

# include/uapi/linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x8 | 0x10 | 0x100
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 16


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
    """A netlink subscription, for an event loop: read it when `fileno()` is readable. Close it."""

    def __init__(self) -> None:
        self._netlink = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            self._netlink.bind((0, _GROUPS))
        except BaseException:
            self._netlink.close()
            raise

    def fileno(self) -> int:
        return self._netlink.fileno()

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> frozenset[News]:
        """All that changed since the last call; empty when nothing of interest did. Never blocks."""
        news: set[News] = set()
        while True:
            try:
                data = self._netlink.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return frozenset(news)
            except OSError as error:
                # The kernel dropped messages because the buffer was full: anything may have changed.
                if error.errno != errno.ENOBUFS:
                    raise
                news.update(News)
                continue
            news.update(_kinds(data))


def _kinds(data: bytes) -> set[News]:
    found = set()
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if kind in _KINDS:
            found.add(_KINDS[kind])
        data = data[(length + 3) & ~3 :]
    return found
