"""Reads the legacy iptables rules of the calling thread's network namespace: `iptables-legacy -S`, as far as needed.

Only tables that exist are asked for: to ask for another one makes it. Of each, the names of its own chains and the
ports that its REDIRECT rules lead to. Layouts: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/
ip6_tables.h, netfilter/x_tables.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SO_GET_INFO, SO_GET_ENTRIES = 64, 65
NAME_BYTES = 32
AT_MOST_BYTES = 4 << 20
"""Tables that are larger are not read: a namespace may have any number of rules."""
ATTEMPTS = 5
INFO = struct.Struct("=32s13I")
ENTRIES = struct.Struct("=32sI4x")
_U16, _U16_BE = struct.Struct("=HH"), struct.Struct(">H")
TARGET_NAME_AT, TARGET_DATA_AT = 2, 32

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Family:
    """`offsets_at`: where an entry says how far its target and the next entry are; `port_at`: in a REDIRECT's data."""

    name: str
    command: str
    family: int
    level: int
    offsets_at: int
    port_at: int


FAMILIES = (
    Family("ip_tables_names", "iptables-legacy", socket.AF_INET, socket.IPPROTO_IP, 88, 16),
    Family("ip6_tables_names", "ip6tables-legacy", socket.AF_INET6, socket.IPPROTO_IPV6, 140, 36),
)


@dataclass(frozen=True, slots=True)
class Table:
    """`chains`: its own ones, without those that the kernel calls; `ports`: what it redirects to."""

    family: Family
    name: str
    chains: frozenset[str]
    ports: frozenset[int]


def tables() -> list[Table]:
    """Every table that exists and is of a usual size. Raises OSError."""
    found = (_read(family, name) for family in FAMILIES for name in _names(family))
    return [table for table in found if table is not None]


def _names(family: Family) -> list[str]:
    path = Path("/proc/thread-self/net", family.name)
    return path.read_text().split() if path.exists() else []


def _read(family: Family, name: str) -> Table | None:
    entries = _entries(family, name)
    if entries is None:
        return None
    chains: set[str] = set()
    ports: set[int] = set()
    for target in _targets(entries, family):
        kind = _text(target[TARGET_NAME_AT : TARGET_NAME_AT + 29])
        data = target[TARGET_DATA_AT:]
        if kind == "ERROR" and _text(data) != "ERROR":
            chains.add(_text(data))  # the head of a chain; the last entry of a table is called ERROR itself
        elif kind == "REDIRECT":
            ports.add(_U16_BE.unpack_from(data, family.port_at)[0])
    return Table(family, name, frozenset(chains), frozenset(ports))


def _entries(family: Family, name: str) -> bytes | None:
    """Those of a table as they are in memory; None when there are too many."""
    with socket.socket(family.family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
        for attempt in range(ATTEMPTS):
            info = _getsockopt(sock, family.level, SO_GET_INFO, INFO.pack(name.encode(), *[0] * 13))
            size = INFO.unpack(info)[-1]
            if size > AT_MOST_BYTES:
                return None
            request = ENTRIES.pack(name.encode(), size) + bytes(size)
            try:
                return _getsockopt(sock, family.level, SO_GET_ENTRIES, request)[ENTRIES.size :]
            except OSError as error:
                # The table was changed in between.
                if error.errno != errno.EAGAIN or attempt == ATTEMPTS - 1:
                    raise
    return None


def _targets(entries: bytes, family: Family) -> Iterator[bytes]:
    at = 0
    while at < len(entries):
        target, following = _U16.unpack_from(entries, at + family.offsets_at)
        yield entries[at + target : at + following]
        at += following


def _getsockopt(sock: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """A getsockopt() whose buffer is also its question. Raises OSError."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint(len(request))
    if _libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)):
        code = ctypes.get_errno()
        raise OSError(code, f"the iptables of the namespace cannot be read: {os.strerror(code)}")
    return buffer.raw


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")
