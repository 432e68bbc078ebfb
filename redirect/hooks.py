"""What runs at the hooks of interfaces, in its order, ours and others': `bpftool net show`, with the tags.

Reads only. In the calling thread's network namespace.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from redirect import sys_bpf, tc_rows

HOOKS = {
    "ingress": (sys_bpf.BPF_TCX_INGRESS, tc_rows.CLSACT_INGRESS),
    "egress": (sys_bpf.BPF_TCX_EGRESS, tc_rows.CLSACT_EGRESS),
}


@dataclass(frozen=True, slots=True)
class Running:
    """One program, or a filter without one (then `program_id` is 0). `tag`: of its code."""

    program_id: int
    name: str
    tag: str
    by: str
    """`tcx` or `clsact`; all of the first run before the second."""
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Hook:
    """What runs at one hook of an interface, the first first."""

    ifindex: int
    hook: str
    programs: tuple[Running, ...]


def read(ifindexes: Iterable[int], ours: Collection[int], *, has_tcx: bool) -> tuple[Hook, ...]:
    """`ours`: ids of the programs that are pinned. Those at which nothing runs are left out. Raises OSError."""
    reading = _Reading(ours)
    qdiscs = tc_rows.ingress_qdiscs()
    found = []
    for ifindex in sorted(ifindexes):
        for hook, (tcx, parent) in HOOKS.items():
            programs = [*reading.tcx(ifindex, tcx)] if has_tcx else []
            if ifindex in qdiscs:
                programs += reading.filters(ifindex, parent)
            if programs:
                found.append(Hook(ifindex, hook, tuple(programs)))
    return tuple(found)


class _Reading:
    """One look at all of them. At hundreds of hooks run the same few programs."""

    def __init__(self, ours: Collection[int]) -> None:
        self._ours = ours
        self._query = sys_bpf.Query()
        self._info = cache(_info)

    def tcx(self, ifindex: int, kind: int) -> Iterator[Running]:
        for program_id in self._query.hooked(ifindex, kind).programs:
            yield self._running(program_id, "", "tcx")

    def filters(self, ifindex: int, parent: int) -> Iterator[Running]:
        for row in tc_rows.filters(ifindex, parent):
            yield self._running(row.program_id, row.name or row.kind, "clsact")

    def _running(self, program_id: int, name: str, by: str) -> Running:
        info = self._info(program_id) if program_id else None
        is_ours = program_id in self._ours
        if info is None:
            return Running(program_id, name, "", by, is_ours)
        return Running(program_id, info.name or name, info.tag, by, is_ours)


def _info(program_id: int) -> sys_bpf.ProgInfo | None:
    """None: it is gone by now."""
    try:
        fd = sys_bpf.prog_by_id(program_id)
    except FileNotFoundError:
        return None
    try:
        return sys_bpf.prog_info(fd)
    finally:
        os.close(fd)
