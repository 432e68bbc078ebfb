"""Whether what is mounted here outlives this process: else captured pods are open as soon as it ends.

A bpffs and the names of namespaces are mounts of a mount namespace; a container, a unit with mounts of its own or
`ip netns exec` has one that ends with it. What counts is what the init process sees: PID 1 here is the machine's, or
the container's own, which ends with the container. `judge` functions are pure; `look` reads /proc.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from redirect import netns
from redirect.errors import WouldNotLast

INIT = Path("/proc/1")
NSFS = "nsfs"
INITIAL_PIDS = 0xEFFFFFFC
"""Inode of the first pid namespace: PROC_PID_INIT_INO. Its PID 1 lives as long as the machine."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/PID/mountinfo. `groups`: numbers of the peer groups it hears of or tells (master, shared)."""

    number: int
    device: str
    root: str
    point: str
    kind: str
    shared: int = 0
    groups: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Mounts:
    """Those of the calling thread and those of init; None: they may not be read.

    `is_whole_machine`: init is the machine's. `is_init`: this process is init. `is_node`: the network namespace is
    init's own, so that captured pods outlive a container; else it is one that ends with it, as in a lab.
    """

    own: tuple[Mount, ...]
    init: tuple[Mount, ...] | None
    is_whole_machine: bool = True
    is_init: bool = False
    is_node: bool = True

    @property
    def are_inits(self) -> bool:
        """Whether both see the same mount namespace: a mount belongs to one."""
        return self.init is not None and bool(_numbers(self.own) & _numbers(self.init))

    def of(self, number: int) -> Mount:
        return next(mount for mount in self.own if mount.number == number)


def judge_found(mounts: Mounts, mount: Mount) -> bool:
    """Whether a file system that was found mounted here is there without this process as well.

    In a container it was found because somebody brought it in: a volume, which is the machine's.
    """
    if mounts.are_inits:
        return True
    if mounts.init is None:
        return bool(mount.groups)
    # All names of namespaces are of one file system: it is the root that tells them apart.
    return any(
        each.device == mount.device and (mount.kind != NSFS or each.root == mount.root)
        for each in mounts.init
    )


def judge_new(mounts: Mounts, parent: Mount) -> bool:
    """Whether what is mounted on `parent` from here will be there without this process as well."""
    if not mounts.are_inits:
        if mounts.init is None:
            return bool(parent.shared)
        return parent.shared != 0 and any(parent.shared in each.groups for each in mounts.init)
    if mounts.is_whole_machine:
        return True
    # PID 1 is a container's. Volumes that tell the machine are shared; so may be the container's own root, to nobody.
    is_volume = parent.shared != 0 and parent.point != "/"
    return is_volume or not (mounts.is_init or mounts.is_node)


def is_inits_to_mount(directory: Path, mounts: Mounts) -> bool:
    """Whether what is mounted in a directory has to be mounted by init to last, and is seen here if it is.

    So it is with a volume of a container that hears of the machine's mounts and tells none (HostToContainer).
    """
    parent = mount_of(directory, mounts)
    if mounts.init is None or mounts.are_inits or judge_new(mounts, parent):
        return False
    return any(each.shared in parent.groups for each in mounts.init if each.shared)


def look(init: Path = INIT) -> Mounts:
    """In the calling thread's namespaces. `init`: the /proc directory of whose mounts last. Raises OSError."""
    try:
        of_init = parse((init / "mountinfo").read_text().splitlines())
    except PermissionError:
        of_init = None
    return Mounts(
        own=parse(Path("/proc/thread-self/mountinfo").read_text().splitlines()),
        init=of_init,
        is_whole_machine=Path("/proc/self/ns/pid").stat().st_ino == INITIAL_PIDS,
        is_init=os.getpid() == 1,
        is_node=_is_network_of(init),
    )


def parse(lines: Iterable[str]) -> tuple[Mount, ...]:
    """The lines of a mountinfo."""
    return tuple(map(_mount, lines))


def mount_of(path: Path, mounts: Mounts) -> Mount:
    """The mount that a path lies on, or the nearest directory above it that exists. Raises OSError."""
    while not path.exists():
        path = path.parent
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/thread-self/fdinfo/{fd}").read_text().splitlines()
        )
    finally:
        os.close(fd)
    return mounts.of(int(fields["mnt_id"]))


def require_pins(path: Path, mounts: Mounts, *, is_mounted: bool) -> None:
    """Raises WouldNotLast for a bpffs at `path`, which is mounted already or will be."""
    mount = mount_of(path, mounts)
    if not (judge_found(mounts, mount) if is_mounted else judge_new(mounts, mount)):
        raise WouldNotLast(
            f"pins at {path} would end with this process, and captured pods be open then: the bpffs there belongs to "
            "a mount namespace of its own (a container, a unit with private mounts, `ip netns exec`, `unshare -m`). "
            "Mount one on the machine itself (`mount -t bpf bpf /sys/fs/bpf`) and have the agent see it: in a "
            "container as the hostPath volume /sys/fs/bpf with mountPropagation Bidirectional; instead of "
            "`ip netns exec NAME` use `nsenter --net=/run/netns/NAME`"
        )


def require_name(path: Path, mounts: Mounts) -> None:
    """Raises WouldNotLast for the name of a namespace, which is mounted already or will be."""
    is_mounted = netns.is_namespace(path)
    mount = mount_of(path, mounts)
    if not is_mounted and is_inits_to_mount(path.parent, mounts):
        return
    if not (judge_found(mounts, mount) if is_mounted else judge_new(mounts, mount)):
        raise WouldNotLast(
            f"the name {path} would be seen by nobody but this process, and the next agent would make another "
            "namespace: start the agent in the machine's mount namespace, or give its container the hostPath volume "
            f"{path.parent} with mountPropagation HostToContainer, hostPID and SYS_CHROOT"
        )


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    number, _, device, root, point, _, *optional = before.split(" ")
    tags = dict(tag.split(":", 1) for tag in optional if ":" in tag)
    groups = frozenset(int(tags[kind]) for kind in ("shared", "master") if kind in tags)
    return Mount(int(number), device, root, point, after.split(" ", 1)[0], int(tags.get("shared", 0)), groups)


def _numbers(mounts: Iterable[Mount]) -> set[int]:
    return {mount.number for mount in mounts}


def _is_network_of(init: Path) -> bool:
    try:
        return (init / "ns/net").stat().st_ino == netns.inode()
    except PermissionError:
        return True
