"""What is mounted here is judged by what init sees: rows of mountinfo as machines and containers have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from redirect import lifetime
from redirect.errors import WouldNotLast
from redirect.lifetime import Mount, Mounts, judge_found, judge_new, look, mount_of, parse, require_pins

ROOT = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
RUN = "30 27 0:25 / /run rw shared:5 - tmpfs tmpfs rw"
BPF = "40 27 0:33 / /sys/fs/bpf rw shared:9 - bpf bpf rw"
NAME = "50 30 0:4 net:[4026532111] /run/netns/ztun-pod rw shared:6 - nsfs nsfs rw"
MACHINE = (ROOT, RUN, BPF, NAME)
"""A machine with systemd, as its init sees it."""


def mounts(own: tuple[str, ...], init: tuple[str, ...] | None = MACHINE, **more: bool) -> Mounts:
    return Mounts(parse(own), None if init is None else parse(init), **more)


def named(point: str, seen: Mounts) -> Mount:
    return next(mount for mount in seen.own if mount.point == point)


FOUND = {
    "the machine itself": (mounts(MACHINE), "/sys/fs/bpf", True),
    "a unit with private mounts, the bpffs cloned": (
        mounts(("127 1 254:0 / / rw - ext4 /dev/vda rw", "140 127 0:33 / /sys/fs/bpf rw - bpf bpf rw")),
        "/sys/fs/bpf",
        True,
    ),
    "a volume that is a directory of it": (
        mounts(("127 1 0:77 / / rw - overlay o rw", "140 127 0:33 /sub /sys/fs/bpf rw - bpf bpf rw")),
        "/sys/fs/bpf",
        True,
    ),
    "a bpffs that only this namespace has": (
        mounts(("127 1 254:0 / / rw - ext4 /dev/vda rw", "140 127 0:99 / /sys/fs/bpf rw - bpf bpf rw")),
        "/sys/fs/bpf",
        False,
    ),
    "in a container, brought in": (
        mounts(own := ("127 1 0:77 / / rw - overlay o rw", "140 127 0:33 / /bpf rw - bpf bpf rw"), own),
        "/bpf",
        True,
    ),
    "init may not be looked at, the mount has peers": (
        mounts(("140 127 0:33 / /sys/fs/bpf rw master:9 - bpf bpf rw",), None),
        "/sys/fs/bpf",
        True,
    ),
    "init may not be looked at, the mount is alone": (
        mounts(("140 127 0:33 / /sys/fs/bpf rw - bpf bpf rw",), None),
        "/sys/fs/bpf",
        False,
    ),
    "a name that the machine knows": (
        mounts(("150 130 0:4 net:[4026532111] /n rw master:6 - nsfs nsfs rw",)),
        "/n",
        True,
    ),
    "a name of another namespace, of the same file system": (
        mounts(("150 130 0:4 net:[4026532999] /n rw - nsfs nsfs rw",)),
        "/n",
        False,
    ),
}

CONTAINER = ("127 1 0:77 / / rw shared:70 - overlay overlay rw",)
VOLUME = (*CONTAINER, "130 127 0:25 /netns /run/netns rw shared:5 - tmpfs tmpfs rw")
NEW = {
    "the machine itself": (mounts(MACHINE), "/run", True),
    "a machine without propagation": (
        mounts(alone := ("27 1 254:0 / / rw - ext4 /dev/vda rw",), alone),
        "/",
        True,
    ),
    "unshare -m": (mounts(("130 127 0:25 / /run rw - tmpfs tmpfs rw",)), "/run", False),
    "ip netns exec: hears, and tells nobody": (
        mounts(("130 127 0:25 / /run rw master:5 - tmpfs tmpfs rw",)),
        "/run",
        False,
    ),
    "a volume that tells the machine": (mounts(VOLUME), "/run/netns", True),
    "shared, but not with the machine": (
        mounts(("130 127 0:25 / /run rw shared:88 - tmpfs tmpfs rw",)),
        "/run",
        False,
    ),
    "init may not be looked at, shared": (
        mounts(("130 127 0:25 / /run rw shared:5 - tmpfs tmpfs rw",), None),
        "/run",
        True,
    ),
    "a container whose init is the agent, its own root": (
        mounts(CONTAINER, CONTAINER, is_whole_machine=False, is_init=True),
        "/",
        False,
    ),
    "a container whose init started the agent": (
        mounts(CONTAINER, CONTAINER, is_whole_machine=False),
        "/",
        False,
    ),
    "a container with a volume": (
        mounts(VOLUME, VOLUME, is_whole_machine=False, is_init=True),
        "/run/netns",
        True,
    ),
    "a node of a lab, which ends with its container": (
        mounts(CONTAINER, CONTAINER, is_whole_machine=False, is_node=False),
        "/",
        True,
    ),
}


@pytest.mark.parametrize("row", FOUND)
def test_what_was_found_lasts_where_somebody_else_has_it_too(row: str) -> None:
    seen, point, lasts = FOUND[row]
    assert judge_found(seen, named(point, seen)) is lasts


@pytest.mark.parametrize("row", NEW)
def test_what_is_mounted_anew_lasts_where_init_gets_it_too(row: str) -> None:
    seen, point, lasts = NEW[row]
    assert judge_new(seen, named(point, seen)) is lasts


INITS = {
    "a volume that hears of the machine's": (
        ("130 127 0:25 /netns /run/netns rw master:5 - tmpfs tmpfs rw",),
        True,
    ),
    "one that tells it as well": (("130 127 0:25 /netns /run/netns rw shared:5 - tmpfs tmpfs rw",), False),
    "one that hears nothing": (("130 127 0:25 /netns /run/netns rw - tmpfs tmpfs rw",), False),
    "one that hears of somebody else's": (
        ("130 127 0:25 /netns /run/netns rw master:88 - tmpfs tmpfs rw",),
        False,
    ),
}


@pytest.mark.parametrize("row", INITS)
def test_init_mounts_what_a_container_only_hears_of(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, is_inits = INITS[row]
    directory = Path("/run/netns")
    monkeypatch.setattr(lifetime, "mount_of", lambda path, seen: named(str(path), seen))
    assert lifetime.is_inits_to_mount(directory, mounts(own)) is is_inits
    assert not lifetime.is_inits_to_mount(directory, mounts(own, None)), "init may not be looked at"
    assert not lifetime.is_inits_to_mount(directory, mounts(own, own)), "it is init's own"


def test_the_mount_of_a_path_is_that_of_the_nearest_directory(tmp_path: Path) -> None:
    here = look()
    assert mount_of(Path("/proc/self/none/at/all"), here).kind == "proc"
    assert mount_of(tmp_path / "missing" / "deep", here) == mount_of(tmp_path, here)


def test_a_refusal_names_the_place_and_the_remedy() -> None:
    here = look()
    alone = Mounts(here.own, ())
    with pytest.raises(WouldNotLast, match=r"pins at /proc/none .*hostPath volume /sys/fs/bpf"):
        require_pins(Path("/proc/none"), alone, is_mounted=False)
