"""Checks of the mounts that captures outlive the agent by: is a bpffs there, can it be written, does it last."""

from __future__ import annotations

import os

from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import Site
from redirect import lifetime, netns, sys_bpf
from redirect.errors import WouldNotLast
from redirect.layout import LAYOUT_HASH
from redirect.pins import BPFFS, is_bpffs
from redirect.side import sides_of

MOUNTED = Subject("bpffs", f"the file system at {BPFFS}")
WRITABLE = Subject("bpffs writable", "a map pinned there for a moment")
LASTING = Subject("mounts outlive the agent", "mounts of this process and of init")
GENERATIONS = Subject("generations", "directories of pins")


def bpffs(site: Site) -> Check:
    if is_bpffs(BPFFS):
        return MOUNTED.ok(f"mounted; this instance pins in {site.pins.root}")
    if is_bpffs(site.pins.root):
        return MOUNTED.ok(f"none there; this instance has one of its own at {site.pins.root}")
    return MOUNTED.warning(
        f"no bpffs is mounted at {BPFFS}: this instance would mount one of its own at {site.pins.root}, which other "
        "tools do not look into",
        "mount it, before the first start of the agent",
        f"mount -t bpf bpf {BPFFS}",
    )


def bpffs_writable(site: Site) -> Check:
    if os.geteuid() != 0:
        return WRITABLE.cannot_tell("only root may pin")
    place = BPFFS if is_bpffs(BPFFS) else site.pins.root
    if not is_bpffs(place):
        return WRITABLE.ok("there is none yet")
    path = place / f"ztun-doctor-{os.getpid()}"
    fd = sys_bpf.map_create(sys_bpf.MAP_TYPE_ARRAY, "doctor", key_size=4, value_size=4, max_entries=1)
    try:
        sys_bpf.obj_pin(fd, path)
        path.unlink()
    except OSError as error:
        return WRITABLE.failed(
            f"nothing can be pinned in {place}: {error.strerror}",
            "mount it for writing; where it is full, a limit of memory holds for this process",
            f"mount -o remount,rw {place}",
        )
    finally:
        os.close(fd)
    return WRITABLE.ok(f"{place} takes pins")


def mounts_last(site: Site) -> Check:
    mounts = site.look()
    pins = site.pins
    try:
        lifetime.require_pins(pins.root, mounts, is_mounted=not pins.is_private or is_bpffs(pins.root))
        for side in sides_of(site.instance):
            lifetime.require_name(side.netns, mounts)
    except WouldNotLast as error:
        words, _, remedy = str(error).partition(": ")
        return LASTING.failed(words, remedy)
    return LASTING.ok(f"{pins.root} and {netns.RUN_DIR} are the machine's")


def generations(site: Site) -> Check:
    pins = site.pins
    found = pins.generations()
    others = [path for path in found if path.name != LAYOUT_HASH]
    if not found:
        return GENERATIONS.ok("none: no agent has run here")
    if not others:
        return GENERATIONS.ok(f"one, {LAYOUT_HASH}, of this version")
    if len(others) == len(found) == 1:
        return GENERATIONS.warning(
            f"the pins are of layout {others[0].name}, and this version has {LAYOUT_HASH}",
            "use the version that made them, or start the agent of this one, which takes them over",
        )
    return GENERATIONS.warning(
        f"{len(found)} of them: {', '.join(path.name for path in found)}; this version has {LAYOUT_HASH}",
        "the agent takes those away that are not its own when it starts; what is attached lives on without them",
        f"rm -r {' '.join(map(str, others))}",
    )


CHECKS = (
    Examination(MOUNTED, bpffs),
    Examination(WRITABLE, bpffs_writable),
    Examination(LASTING, mounts_last),
    Examination(GENERATIONS, generations),
)
