"""clsact filters, for kernels without tcx and for whoever has no time for it: our own handle, name and priority.

Nothing that is not ours is changed or removed, and what is in the way of ours is an error that names it. A clsact
that we added goes when the last filter in it does; a directory beside the links' pins, `clsact-IFINDEX`, says that
it was ours, also to the next process.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redirect import netlink, rt_writes, sys_bpf, tc_rows
from redirect.errors import StepFailed
from redirect.pins import Pins
from redirect.rt_writes import CLSACT, PROTOCOL_ALL_BE
from redirect.tc_rows import CLSACT_EGRESS, CLSACT_INGRESS, FilterRow

# clsact parent of each program of a device.
PARENTS = {
    "from_pod": CLSACT_INGRESS,
    "to_pod": CLSACT_EGRESS,
    "from_pod_side": CLSACT_INGRESS,
    "from_net_side": CLSACT_INGRESS,
}
# Priority 1 runs first. Cilium replaces handle 1 of it: never ours.
PRIORITY = 1
HANDLE = 0x7A74
# For a moment, while ours is put before those of others: of one priority a filter with a new handle runs first.
SPARE_HANDLE = 0x7A75
HANDLES = (HANDLE, SPARE_HANDLE)
_MARK = f"{CLSACT}-"


@dataclass(frozen=True, slots=True)
class Attachment:
    """What of ours runs at a place.

    `program_id`: 0 where the device is gone and only the link is left. `ahead`: in words, the programs of others
    that have a packet before it, and could take it; empty where it is the first. `is_provisional`: a filter where there
    is to be a link.
    """

    program_id: int
    ahead: str = ""
    is_provisional: bool = False


class Filters:
    """The filters of one instance; interface numbers are those of the calling thread's namespace."""

    def __init__(
        self,
        instance: str,
        pins: Pins,
        parents: Mapping[str, int] = PARENTS,
        handles: tuple[int, int] = HANDLES,
        *,
        behind: Filters | None = None,
    ) -> None:
        """`parents`: of the programs that are put, `handles`: that of each filter, and a spare one. `behind`:
        those that run at each place before these are put there; what is known of a clsact is known to both."""
        self._instance = instance
        self._pins = pins
        self._parents = parents
        self._handle, self._spare_handle = self._handles = handles
        self._is_behind = behind is not None
        self._own_qdiscs: set[int] = set() if behind is None else behind._own_qdiscs
        """Interfaces whose clsact this process added or found marked: the marks may be lost with the pins."""
        self._seen_ours: set[int] = set() if behind is None else behind._seen_ours
        """Of these the ones that this process added, or found a filter of ours in, and that have been there since: a
        mark alone may be of a clsact that somebody took off, and somebody else's be in its place."""
        self._emptied: set[int] = set()
        """Of these the ones without a filter of ours: nobody else puts one there, so they need not be asked for."""

    def attach(self, ifindex: int, program: str, prog_fd: int) -> None:
        """Puts a program there, or swaps it in for an older one. Raises StepFailed for what is in the way."""
        kind = tc_rows.ingress_qdiscs().get(ifindex, "")
        if kind == "ingress":
            raise StepFailed(
                f"attach {program} to interface {ifindex}",
                "it has an `ingress` qdisc of somebody else, which leaves no room for clsact; "
                "remove the qdisc, or use a kernel with tcx (Linux 6.6)",
            )
        if kind and not self._is_behind and self._is_own_qdisc(ifindex) and not self.attached_at(ifindex):
            # Left by an interface that had this number before: this clsact is not ours.
            self._disown_qdisc(ifindex)
        self.put(ifindex, program, prog_fd, kind)

    def put(self, ifindex: int, program: str, prog_fd: int, kind: str) -> None:
        """The same where it is known what qdisc has the place: clsact, or (empty) none. Raises StepFailed, OSError."""
        self._emptied.discard(ifindex)
        with _named(f"attach {program} to interface {ifindex}"):
            if not kind:
                # The mark first: after a crash in between, a clsact of ours is not taken for somebody else's.
                self._own_qdiscs.add(ifindex)
                self._mark(ifindex).mkdir(exist_ok=True)
                rt_writes.add_clsact(ifindex)
                self._seen_ours.add(ifindex)
            self._refuse_collision(ifindex, program)
            parent = self._parents[program]
            rt_writes.put_filter(ifindex, parent, PRIORITY, self._handle, prog_fd, self._name(program))
            self._delete(ifindex, program, self._spare_handle)

    def attach_alone(self, ifindex: int, program: str, prog_fd: int) -> bool:
        """Puts a program on an interface where nobody has anything by tc, without a look at all the others.

        False, with nothing done, where somebody has, or the kernel has no clsact.
        """
        self._emptied.discard(ifindex)
        if not self._is_own_qdisc(ifindex):
            self._own_qdiscs.add(ifindex)
            self._mark(ifindex).mkdir(exist_ok=True)
            try:
                rt_writes.add_clsact(ifindex)
            except OSError:
                self._disown_qdisc(ifindex)
                return False
            self._seen_ours.add(ifindex)
        elif tc_rows.filters(ifindex, self._parents[program]):
            return False
        try:
            rt_writes.put_filter(
                ifindex, self._parents[program], PRIORITY, self._handle, prog_fd, self._name(program)
            )
        except OSError:
            if not self.attached_at(ifindex):
                self._disown_qdisc(ifindex)
            return False
        return True

    def has(self, ifindex: int, program: str) -> bool:
        """Whether a filter of ours is there."""
        return any(
            self._is_ours(row, program, handle)
            for row in tc_rows.filters(ifindex, self._parents[program])
            for handle in self._handles
        )

    def has_others(self, ifindex: int, program: str) -> bool:
        """Whether somebody else has a filter beside ours."""
        rows = tc_rows.filters(ifindex, self._parents[program])
        return not all(any(self._is_ours(row, program, each) for each in self._handles) for row in rows)

    def move_ahead(self, ifindex: int, program: str, prog_fd: int) -> None:
        """Has our filter run before all others, with one of ours there at every moment. Raises StepFailed, OSError."""
        self._refuse_collision(ifindex, program)
        for put, delete in (self._handles[::-1], self._handles):
            # One that is there already would be replaced where it is.
            self._delete(ifindex, program, put)
            rt_writes.put_filter(ifindex, self._parents[program], PRIORITY, put, prog_fd, self._name(program))
            self._delete(ifindex, program, delete)

    def detach(self, ifindex: int, program: str) -> None:
        """Removes our filter, and our clsact when nobody has a filter in it."""
        if tc_rows.ingress_qdiscs().get(ifindex) != CLSACT:
            # No clsact any more: a mark would claim the next one for us.
            self._disown_qdisc(ifindex)
            return
        self.remove(ifindex, program)

    def remove(self, ifindex: int, program: str) -> None:
        """The same where a filter or clsact of ours was seen: without a look at what all the others have.

        A clsact goes with the last of our filters in it. One in which this process has seen nothing of ours may be
        somebody else's, whatever a mark says that is older than it: that stays.
        """
        try:
            self.take_out(ifindex, program)
            if not self._is_empty(ifindex):
                return
            if ifindex in self._seen_ours:
                rt_writes.delete_clsact(ifindex)
            self._disown_qdisc(ifindex)
        except OSError as error:
            # The interface went between the look and the step, and its filters with it; or somebody took our clsact
            # off, and may have an `ingress` in its place.
            if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
                raise
            self._disown_qdisc(ifindex)

    def take_out(self, ifindex: int, program: str) -> None:
        """The filter alone: what is sent while a qdisc comes or goes, of whatever kind, is dropped for a moment."""
        self._see_ours(ifindex)
        for handle in self._handles:
            self._delete(ifindex, program, handle)

    def owns(self, ifindex: int) -> bool:
        """Whether a clsact of ours is there."""
        return self._is_own_qdisc(ifindex)

    def attached(self) -> dict[tuple[int, str], Attachment]:
        """Each of our filters, by (ifindex, program)."""
        found: dict[tuple[int, str], Attachment] = {}
        # Two questions for each interface.
        with netlink.one_socket():
            qdiscs = tc_rows.ingress_qdiscs()
            self._seen_ours -= {ifindex for ifindex in self._seen_ours if qdiscs.get(ifindex) != CLSACT}
            for ifindex, kind in qdiscs.items():
                if kind == CLSACT and ifindex not in self._emptied:
                    ours = self.attached_at(ifindex)
                    found.update(ours)
                    if not ours and self._is_own_qdisc(ifindex):
                        self._emptied.add(ifindex)
        return found

    def forget_qdiscs(self, present: Collection[int]) -> None:
        """Those of interfaces that are gone: the next clsact under such a number is not ours."""
        for ifindex in self._marked() - set(present):
            self._disown_qdisc(ifindex)

    def restore_marks(self) -> None:
        """Marks again what lost its mark."""
        self._own_qdiscs |= self._marked()
        for ifindex in self._own_qdiscs:
            self._mark(ifindex).mkdir(exist_ok=True)

    def _refuse_collision(self, ifindex: int, program: str) -> None:
        """A filter of somebody else that would be overwritten, or that keeps ours from our priority."""
        for row in tc_rows.filters(ifindex, self._parents[program]):
            if row.priority != PRIORITY or any(
                self._is_ours(row, program, handle) for handle in self._handles
            ):
                continue
            if row.kind == "bpf" and row.protocol_be == PROTOCOL_ALL_BE and row.handle not in self._handles:
                continue
            raise StepFailed(
                f"attach {program} to interface {ifindex}",
                f"a `{row.kind}` filter of somebody else at priority {PRIORITY} (handle {row.handle:#x}, protocol "
                f"{socket.ntohs(row.protocol_be):#06x}) leaves no room for ours; give it another priority "
                "(`tc filter show dev DEV ingress`, or egress), or use a kernel with tcx (Linux 6.6)",
            )

    def _is_ours(self, row: FilterRow, program: str, handle: int) -> bool:
        """By name, priority and handle: whatever differs in one of them is somebody else's."""
        return (row.name, row.priority, row.handle) == (self._name(program), PRIORITY, handle)

    def _delete(self, ifindex: int, program: str, handle: int) -> None:
        """Our filter of that handle; one that is not there is nothing to do."""
        if any(
            self._is_ours(row, program, handle) for row in tc_rows.filters(ifindex, self._parents[program])
        ):
            rt_writes.delete_filter(ifindex, self._parents[program], PRIORITY, handle)

    def _name(self, program: str) -> str:
        return f"ztun:{self._instance}:{program}"

    def attached_at(self, ifindex: int) -> dict[tuple[int, str], Attachment]:
        """The same of one interface."""
        rows = {parent: tc_rows.filters(ifindex, parent) for parent in (CLSACT_INGRESS, CLSACT_EGRESS)}
        return {
            (ifindex, program): Attachment(
                row.program_id, ", ".join(map(_words, self._ahead(rows[parent], at, program)))
            )
            for program, parent in self._parents.items()
            for at, row in enumerate(rows[parent])
            if self._is_ours(row, program, self._handle)
        }

    def _ahead(self, rows: list[FilterRow], at: int, program: str) -> list[FilterRow]:
        """Those before ours, and one of ours that a crash has left while it was moved: it may be of another version."""
        left = [row for row in rows[at:] if self._is_ours(row, program, self._spare_handle)]
        return rows[:at] + left

    def _is_empty(self, ifindex: int) -> bool:
        return not any(tc_rows.filters(ifindex, parent) for parent in (CLSACT_INGRESS, CLSACT_EGRESS))

    def _see_ours(self, ifindex: int) -> None:
        """Notes a clsact that is marked as ours, and has a filter of ours in it."""
        if (
            ifindex not in self._seen_ours
            and self._is_own_qdisc(ifindex)
            and any(
                self._is_ours(row, program, handle)
                for program, parent in self._parents.items()
                for row in tc_rows.filters(ifindex, parent)
                for handle in self._handles
            )
        ):
            self._seen_ours.add(ifindex)

    def _mark(self, ifindex: int) -> Path:
        return self._pins.links / f"{_MARK}{ifindex}"

    def _marked(self) -> set[int]:
        try:
            names = os.listdir(self._pins.links)
        except FileNotFoundError:
            return set()
        return {int(name.removeprefix(_MARK)) for name in names if name.startswith(_MARK)}

    def _is_own_qdisc(self, ifindex: int) -> bool:
        return ifindex in self._own_qdiscs or self._mark(ifindex).is_dir()

    def _disown_qdisc(self, ifindex: int) -> None:
        self._own_qdiscs.discard(ifindex)
        self._seen_ours.discard(ifindex)
        self._emptied.discard(ifindex)
        if self._mark(ifindex).is_dir():
            self._mark(ifindex).rmdir()


def program_words(program_id: int) -> str:
    """A program as people find it: `bpftool prog show id N`."""
    name = sys_bpf.prog_name(program_id)
    return f"program {program_id} ({name})" if name else f"program {program_id}"


def _words(row: FilterRow) -> str:
    named = f"filter {row.name}" if row.name else f"a `{row.kind}` filter"
    return f"{named}, {program_words(row.program_id)}" if row.program_id else named


@contextmanager
def _named(step: str) -> Iterator[None]:
    """ENOENT of adding a qdisc or filter: the kernel has no such kind."""
    try:
        yield
    except FileNotFoundError as error:
        raise StepFailed(
            step,
            "this kernel has neither tcx (Linux 6.6) nor what clsact filters need: `modprobe -a sch_ingress cls_bpf` "
            "(CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)",
        ) from error
