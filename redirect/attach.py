"""Attaches our programs: by tcx where the kernel has it, else as clsact filters, and by sk_lookup links.

A tcx or sk_lookup link is pinned and updated in place; a filter has our own handle and name and is replaced in
place. Nothing that is not ours is ever changed or removed. What belongs where is decided elsewhere; interface
numbers are those of the calling thread's network namespace (docs/KERNEL.md#attachment).
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from redirect import netns, sys_bpf
from redirect.errors import InstanceInUse, StepFailed
from redirect.pins import BPFFS, Pins

# tcx attach type and clsact parent of each program of a device.
DIRECTIONS = {
    "from_pod": (sys_bpf.BPF_TCX_INGRESS, 0xFFFFFFF2),
    "to_pod": (sys_bpf.BPF_TCX_EGRESS, 0xFFFFFFF3),
    "from_pod_side": (sys_bpf.BPF_TCX_INGRESS, 0xFFFFFFF2),
    "from_net_side": (sys_bpf.BPF_TCX_INGRESS, 0xFFFFFFF2),
}
INGRESS_QDISC_PARENT = 0xFFFFFFF1
# Priority 1 runs first. Cilium replaces handle 1 of it: never ours.
PRIORITY = 1
HANDLE = 0x7A74
CLSACT = "clsact"
PROTOCOL_ALL_BE = socket.htons(0x0003)
TCA_BPF_ID = 11
NLA_HEADER_BYTES = 4

Attached = dict[tuple[int, str], int]
"""(ifindex, program) -> id of the program that runs there; 0: its device is gone, only the pin is left."""


class Attachments:
    """The attachments of one instance. `has_tcx` from `features`."""

    def __init__(self, instance: str, pins: Pins, *, has_tcx: bool) -> None:
        self._instance = instance
        self._pins = pins
        self._has_tcx = has_tcx

    def attach(self, ifindex: int, program: str) -> None:
        """Puts this generation's program there, or swaps it in for an older one without a gap.

        Raises StepFailed for an interface that is gone or has a qdisc in the way, OSError otherwise.
        """
        with self._opened(program) as prog_fd:
            if self._has_tcx:
                kind = DIRECTIONS[program][0]
                self._ensure_link(
                    self._pins.links / f"{ifindex}-{program}", prog_fd, ifindex, kind, sys_bpf.BPF_F_BEFORE
                )
            else:
                self._replace_filter(ifindex, program, prog_fd)

    def refuse_unseen(self, program: str, namespace: Path) -> None:
        """Raises InstanceInUse when a private namespace has a socket lookup whose pin cannot be seen from here.

        The namespace is ours alone: an earlier agent attached it, and a second set of programs beside its set
        would drop what that one lets pass.
        """
        if (self._pins.links / program).exists() or not netns.is_namespace(namespace):
            return
        with namespace.open("rb") as target:
            if sys_bpf.prog_query(target.fileno(), sys_bpf.BPF_SK_LOOKUP):
                raise InstanceInUse(
                    f"namespace {namespace.name} has a socket lookup whose pin is not in {self._pins.links}: has "
                    f"{BPFFS} been unmounted, or did the agent before run in another mount namespace? Start this "
                    "one where the pins are, or choose another instance"
                )

    def attach_lookup(self, program: str, namespace: Path) -> None:
        """The socket lookup of a private namespace."""
        with self._opened(program) as prog_fd, namespace.open("rb") as target:
            path = self._pins.links / program
            if path.exists() and self._link(path).target != namespace.stat().st_ino:
                _unpin_link(path)
            self._ensure_link(path, prog_fd, target.fileno(), sys_bpf.BPF_SK_LOOKUP, 0)

    def detach(self, ifindex: int, program: str) -> None:
        """Takes a program off again; one that is not there is nothing to do."""
        _unpin_link(self._pins.links / f"{ifindex}-{program}")
        self._delete_filter(ifindex, program)

    def forget_qdiscs(self, present: Collection[int]) -> None:
        """Those of interfaces that are gone: the next clsact under such a number is not ours."""
        for marker in self._pins.links.glob(f"{CLSACT}-*"):
            if int(marker.name.removeprefix(f"{CLSACT}-")) not in present:
                marker.rmdir()

    def detach_lookups(self) -> None:
        for path in self._link_paths():
            if "-" not in path.name:
                _unpin_link(path)

    def attached(self) -> Attached:
        """What of ours is attached to devices, by links and by filters."""
        found: Attached = {}
        for path in self._link_paths():
            ifindex, dash, program = path.name.partition("-")
            if dash and program in DIRECTIONS:
                link = self._link(path)
                found[int(ifindex), program] = link.prog_id if link.target == int(ifindex) else 0
        with IPRoute() as ip:
            for qdisc in ip.get_qdiscs():
                if qdisc.get("kind") == CLSACT:
                    found.update(self._filters_of(ip, qdisc["index"]))
        return found

    def attached_lookup(self, program: str, namespace: Path) -> int:
        """Id of the program that looks up sockets in a namespace; 0: none of ours."""
        path = self._pins.links / program
        if not path.exists():
            return 0
        link = self._link(path)
        return link.prog_id if link.target == namespace.stat().st_ino else 0

    def program_id(self, program: str) -> int:
        """Id of this generation's program."""
        with self._opened(program) as fd:
            return sys_bpf.prog_info(fd).id

    @contextmanager
    def _opened(self, program: str) -> Iterator[int]:
        fd = self._pins.open_program(program)
        try:
            yield fd
        finally:
            os.close(fd)

    def _link_paths(self) -> list[Path]:
        return (
            sorted(path for path in self._pins.links.iterdir() if not path.is_dir())
            if self._pins.links.is_dir()
            else []
        )

    def _link(self, path: Path) -> sys_bpf.LinkInfo:
        fd = sys_bpf.obj_get(path)
        try:
            return sys_bpf.link_info(fd)
        finally:
            os.close(fd)

    def _ensure_link(self, path: Path, prog_fd: int, target: int, kind: int, flags: int) -> None:
        if path.exists():
            fd = sys_bpf.obj_get(path)
            try:
                # LINK_UPDATE swaps atomically: no packet meets neither program.
                sys_bpf.link_update(fd, prog_fd)
                return
            except OSError as error:
                # The device or namespace of the link is gone and its number may be another's by now.
                if error.errno != errno.ENOLINK:
                    raise
            finally:
                os.close(fd)
            path.unlink()
        # bpftool net attach tcx_ingress PROG dev DEV; BEFORE with relative 0: ahead of everybody else's
        fd = sys_bpf.link_create(prog_fd, target, kind, flags)
        try:
            # Closing the last fd of a link that is not pinned would detach it.
            sys_bpf.obj_pin(fd, path)
        finally:
            os.close(fd)

    def _name(self, program: str) -> str:
        return f"ztun:{self._instance}:{program}"

    def _replace_filter(self, ifindex: int, program: str, prog_fd: int) -> None:
        with IPRoute() as ip:
            kind = ingress_qdisc(ip, ifindex)
            if kind == "ingress":
                raise StepFailed(
                    f"attach {program} to interface {ifindex}",
                    "it has an `ingress` qdisc of somebody else, which leaves no room for clsact; "
                    "remove the qdisc, or use a kernel with tcx (Linux 6.6)",
                )
            marker = self._clsact_marker(ifindex)
            if kind and marker.is_dir() and not self._filters_of(ip, ifindex):
                # Left by an interface that had this number before: this clsact is not ours.
                marker.rmdir()
            if not kind:
                # The marker first: after a crash in between, a clsact of ours is not taken for somebody else's.
                marker.mkdir(exist_ok=True)
                ip.tc("add", CLSACT, index=ifindex)  # tc qdisc add dev DEV clsact
            self._refuse_collision(ip, ifindex, program)
            # tc filter replace dev DEV ingress|egress prio 1 handle 0x7a74 bpf direct-action fd PROG
            ip.tc(
                "replace-filter",
                "bpf",
                index=ifindex,
                handle=HANDLE,
                fd=prog_fd,
                name=self._name(program),
                parent=DIRECTIONS[program][1],
                classid=1,
                direct_action=True,
                prio=PRIORITY,
            )

    def _refuse_collision(self, ip: IPRoute, ifindex: int, program: str) -> None:
        """A filter of somebody else that would be overwritten, or that keeps ours from our priority."""
        for filter_ in _filters(ip, ifindex, DIRECTIONS[program][1]):
            if _priority(filter_) != PRIORITY or self._is_ours(filter_, program):
                continue
            kind, protocol, handle = str(filter_.get("kind")), filter_["info"] & 0xFFFF, filter_["handle"]
            if kind == "bpf" and protocol == PROTOCOL_ALL_BE and handle != HANDLE:
                continue
            raise StepFailed(
                f"attach {program} to interface {ifindex}",
                f"a `{kind}` filter of somebody else at priority {PRIORITY} (handle {handle:#x}, protocol "
                f"{socket.ntohs(protocol):#06x}) leaves no room for ours; give it another priority "
                "(`tc filter show dev DEV ingress`, or egress), or use a kernel with tcx (Linux 6.6)",
            )

    def _is_ours(self, filter_: Any, program: str) -> bool:
        """By name, priority and handle: whatever differs in one of them is somebody else's."""
        return (
            _is_named(filter_, self._name(program))
            and _priority(filter_) == PRIORITY
            and filter_["handle"] == HANDLE
        )

    def _delete_filter(self, ifindex: int, program: str) -> None:
        with IPRoute() as ip:
            try:
                if ingress_qdisc(ip, ifindex) == CLSACT:
                    if (ifindex, program) in self._filters_of(ip, ifindex):
                        # tc filter del dev DEV ingress|egress prio 1 handle 0x7a74 bpf
                        ip.tc(
                            "del-filter",
                            "bpf",
                            index=ifindex,
                            handle=HANDLE,
                            parent=DIRECTIONS[program][1],
                            prio=PRIORITY,
                        )
                    self._delete_qdisc(ip, ifindex)
                    return
            except NetlinkError as error:
                # The interface went between the look and the step: its filters went with it.
                if error.code not in (errno.ENODEV, errno.ENOENT):
                    raise
        # No clsact any more: a marker would claim the next one for us.
        if self._clsact_marker(ifindex).is_dir():
            self._clsact_marker(ifindex).rmdir()

    def _delete_qdisc(self, ip: IPRoute, ifindex: int) -> None:
        """The clsact that we added, once nobody has a filter in it."""
        marker = self._clsact_marker(ifindex)
        if not marker.is_dir():
            return
        if not any(_filters(ip, ifindex, parent) for parent in (0xFFFFFFF2, 0xFFFFFFF3)):
            ip.tc("del", CLSACT, index=ifindex)  # tc qdisc del dev DEV clsact
            marker.rmdir()

    def _clsact_marker(self, ifindex: int) -> Path:
        """A directory that says: the clsact of this interface was added by us."""
        return self._pins.links / f"{CLSACT}-{ifindex}"

    def _filters_of(self, ip: IPRoute, ifindex: int) -> Attached:
        found: Attached = {}
        for program, (_, parent) in DIRECTIONS.items():
            for filter_ in _filters(ip, ifindex, parent):
                if self._is_ours(filter_, program):
                    found[ifindex, program] = _program_id(filter_)
        return found


def ingress_qdisc(ip: IPRoute, ifindex: int) -> str:
    """The kind of qdisc in the place where clsact goes; empty when it is free."""
    for qdisc in ip.get_qdiscs(ifindex):
        if qdisc["parent"] == INGRESS_QDISC_PARENT:
            return str(qdisc.get("kind"))
    return ""


def _filters(ip: IPRoute, ifindex: int, parent: int) -> list[Any]:
    return [
        entry for entry in ip.get_filters(index=ifindex, parent=parent) if entry.get("options") is not None
    ]


def _priority(filter_: Any) -> int:
    return int(filter_["info"]) >> 16


def _is_named(filter_: Any, name: str) -> bool:
    return any(attr == "TCA_BPF_NAME" and value == name for attr, value in filter_.get("options")["attrs"])


def _program_id(filter_: Any) -> int:
    """TCA_BPF_ID, which pyroute2 0.9 does not decode: it hands out the whole message and an offset."""
    for name, value in filter_.get("options")["attrs"]:
        if name == "UNKNOWN" and value["header"]["type"] == TCA_BPF_ID:
            start = value.offset + NLA_HEADER_BYTES
            return int.from_bytes(value.data[start : start + 4], sys.byteorder)
    return 0


def _unpin_link(path: Path) -> None:
    """`bpftool link detach`: at once, also while somebody else holds the link open."""
    if not path.exists():
        return
    with closing(os.fdopen(sys_bpf.obj_get(path), "rb", closefd=True)) as link:
        try:
            sys_bpf.link_detach(link.fileno())
        except OSError as error:
            if error.errno != errno.ENOLINK:
                raise
    path.unlink()
