"""SYNs that ended because nobody served: the entries of `waiting`, noted by the programs, taken by whoever serves next.

Part of `layout`, which has the rest of bpf/include/ztun_types.h. The record is that of a held SYN, which user space
reads where it makes frames of it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from redirect import sys_bpf

RECORD_BYTES = 168
"""struct held_syn."""
KEY_BYTES = 40
"""struct flow_key."""
MOST = 2048
_HEAD = struct.Struct("=QI")


class Waiting(NamedTuple):
    """One of them, of the connection `flow` (bytes of a FlowKey). When it came is in ns of the monotonic clock."""

    flow: bytes
    at_ns: int
    ifindex: int
    record: bytes


def look(fd: int) -> Iterator[Waiting]:
    """All of them. `fd`: of the map. Raises OSError."""
    for flow, record in sys_bpf.map_items(fd, KEY_BYTES, RECORD_BYTES):
        at_ns, ifindex = _HEAD.unpack_from(record)
        yield Waiting(flow, at_ns, ifindex, record)


def take(fd: int) -> list[bytes]:
    """The records, in the order in which they came; they are forgotten. `fd` is closed. Raises OSError."""
    try:
        found = sorted(look(fd), key=lambda each: each.at_ns)
        for each in found:
            sys_bpf.map_delete(fd, each.flow)
    finally:
        os.close(fd)
    return [each.record for each in found]
