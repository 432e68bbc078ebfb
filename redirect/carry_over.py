"""Carries what an older generation of programs knows over to a new one, before the new one is attached.

A map that has kept its shape is shared: the new programs are loaded on the very map of the old ones. So both see
the same pods, flows and listeners while programs are swapped one by one, and no entry made meanwhile is lost. A
map of another capacity is copied; one of another entry size is refused where pods depend on it. `conf` belongs to its
programs and is new; so is `stats`, whose numbers are exits of one layout, unless it is this one that is built anew.
Knows directories of pins, not what is attached.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redirect import sys_bpf
from redirect.errors import LayoutMismatch
from redirect.layout import MAPS
from redirect.maps import Maps

_OPENINGS = ("openings", "open_until")
_COPIED = (
    "pods",
    "ifaces",
    "hostips",
    "hostflows",
    "passthru",
    "captures",
    "owners",
    "neighbours",
    *_OPENINGS,
)
# A listener cannot be copied: a lookup from user space answers a cookie, not the socket.
# Who has proven itself has done so to workers of any version, which write it in one form.
# Who is denied is taken back by the next agent when it begins, in the programs that are still there too.
# A guard of one version asks what programs of another have noted.
# Whoever waited while no agent was there waits for the next one, whichever that is.
_SHARED = (*_COPIED, "socks", "members", "prefiltered", "denials", "waiting", "seen")
# Numbers of enum bpf_map_type.
_KINDS = {
    "hash": 1,
    "array": 2,
    "percpu_array": 6,
    "lru_hash": 9,
    "lpm_trie": 11,
    "array_of_maps": 12,
    "sockmap": 15,
}


def recover(program_ids: Iterable[int], pinned: Iterable[Path], directory: Path) -> None:
    """Pins the maps of attached programs in a directory of their own, those of a name that no generation has pinned.

    Somebody may have removed those pins while nobody held the maps besides the programs: without their entries
    the programs of the next version would let captured pods pass.
    """
    known = {path.name for each in pinned for path in each.iterdir()}
    for number in {number for program in set(program_ids) - {0} for number in sys_bpf.prog_map_ids(program)}:
        fd = sys_bpf.map_by_id(number)
        try:
            name = _pin(sys_bpf.map_info(fd).name)
            if name not in known:
                directory.mkdir(exist_ok=True)
                sys_bpf.obj_pin(fd, directory / name)
                known.add(name)
        finally:
            os.close(fd)


def share(older: Iterable[Path], new: Path) -> None:
    """Pins the maps of older generations in the empty directory of a new one, to be loaded on."""
    # Those that capture pods first: theirs are the maps that programs work with.
    for directory in sorted(older, key=has_pods, reverse=True):
        # Of maps that only programs held (`recover`) nobody knows of which layout they are.
        counted = ("stats",) if _layout(directory) == _layout(new) else ()
        for name in (*_SHARED, *counted):
            if not (new / _pin(name)).exists():
                with _opened(directory, name) as fd:
                    if fd is not None and _is_same_shape(fd, name):
                        sys_bpf.obj_pin(fd, new / _pin(name))


def copy(older: Iterable[Path], new: Path) -> None:
    """Entries of maps that could not be shared, into the loaded directory of a new generation.

    Raises LayoutMismatch when the pods of an older generation cannot be carried over: without their entries the
    new programs would let them pass.
    """
    with Maps(new) as maps:
        for directory in older:
            names = [name for name in _COPIED if _number(directory, name) not in (0, _number(new, name))]
            try:
                maps.copy_from(directory, names)
            except LayoutMismatch:
                if has_pods(directory):
                    raise


def has_pods(directory: Path) -> bool:
    """Whether a generation of any layout captures anything, by the keys of its `ifaces`."""
    with _opened(directory, "ifaces") as fd:
        return fd is not None and any(True for _ in sys_bpf.map_keys(fd, sys_bpf.map_info(fd).key_size))


def _is_same_shape(fd: int, name: str) -> bool:
    info, shape = sys_bpf.map_info(fd), MAPS[name]
    return (info.type, info.key_size, info.value_size, info.max_entries) == (
        _KINDS[shape.kind],
        shape.key_bytes,
        shape.value_bytes,
        shape.max_entries,
    )


def _number(directory: Path, name: str) -> int:
    """The kernel's id of a map; 0: there is none."""
    with _opened(directory, name) as fd:
        return 0 if fd is None else sys_bpf.map_info(fd).id


@contextmanager
def _opened(directory: Path, name: str) -> Iterator[int | None]:
    try:
        fd = sys_bpf.obj_get(directory / _pin(name))
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _layout(directory: Path) -> str:
    """Of a generation, of one that is being loaded, or of one that stepped aside: `redirect.pins`."""
    return directory.name.partition("-")[0]


def _pin(name: str) -> str:
    return f"map_{name}"
