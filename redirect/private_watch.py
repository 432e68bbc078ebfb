"""News of links, addresses, routes and rules of the private namespaces, where nobody else has any business.

For an event loop: read it when `fileno()` is readable. The news carries no content: what differs is looked up. A socket
hears the namespace that it was made in. Groups: include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterable
from pathlib import Path

from redirect import netns

# RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE; RTNLGRP_IPV6_RULE is the 19th
GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
_READ_BYTES = 1 << 16


class PrivateWatch:
    """Hears namespaces; close it."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._heard: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        return self._poll.fileno()

    def watch(self, namespaces: Iterable[Path]) -> None:
        """Those that are there, by their paths, and no others. Raises OSError."""
        found = {netns.inode(path): path for path in namespaces if netns.is_namespace(path)}
        # One whose name alone is gone lives, and has it back soon.
        if len(found) == len(self._heard):
            for inode in self._heard.keys() - found.keys():
                self._forget(inode)
        for inode in found.keys() - self._heard.keys():
            with netns.entered(found[inode]):
                sock = socket.socket(
                    socket.AF_NETLINK,
                    socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                    socket.NETLINK_ROUTE,
                )
            self._heard[inode] = sock
            sock.bind((0, GROUPS))
            self._poll.register(sock.fileno(), select.EPOLLIN)

    def read(self) -> None:
        """Takes what was told. Never blocks."""
        for sock in self._heard.values():
            try:
                while sock.recv(_READ_BYTES):
                    pass
            except BlockingIOError:
                continue
            except OSError as error:
                # More than could be kept: that something changed is all that matters.
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        for inode in list(self._heard):
            self._forget(inode)
        self._poll.close()

    def _forget(self, inode: int) -> None:
        self._heard.pop(inode).close()
