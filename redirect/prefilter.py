"""Writes and reads what programs deny by: sets of sources and ports, and which set is whose.

A set is written whole before an address is given it, and an address changes its set in one write: each SYN is judged by
one set as a whole, or by none. The numbers of sets are not used again while an agent lives. Who is denied why is not
known here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from redirect import sys_bpf
from redirect.denials import CIDR, OTHER_PORTS, Denial, DenialKey, Prefiltered
from redirect.errors import MapFull
from redirect.layout import IP, MAPS, address_key, address_of
from redirect.maps import check_shape

HBONE_PORT, ADDRESS_BITS = 15008, 128


class Source(NamedTuple):
    """One entry of a set. `port` may be `denials.OTHER_PORTS`."""

    port: int
    range: CIDR
    is_denied: bool

    def key(self, number: int) -> bytes:
        return DenialKey.of(number, self.port, self.range).encode()


class PrefilterMaps:
    """The two maps of a generation, open. Close it."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError, LayoutMismatch."""
        self._fds: dict[str, int] = {}
        self._number = 0
        try:
            for name in ("prefiltered", "denials"):
                self._fds[name] = sys_bpf.obj_get(directory / f"map_{name}")
                check_shape(self._fds[name], name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def clear(self) -> None:
        """Nobody is denied by programs from now on."""
        linked, entries = self._fds["prefiltered"], self._fds["denials"]
        for key in list(sys_bpf.map_keys(linked, MAPS["prefiltered"].key_bytes)):
            sys_bpf.map_delete(linked, key)
        for denial in sorted(denials(entries).items(), key=lambda item: not item[1].is_denied):
            sys_bpf.map_delete(entries, denial[0].encode())

    def put_set(self, sources: Iterable[Source]) -> int:
        """Write a new set, which is nobody's yet; its number. Raises MapFull, and then there is none of it."""
        self._number += 1
        written = []
        fd = self._fds["denials"]
        try:
            for source in sources:
                sys_bpf.map_update(fd, source.key(self._number), Denial(source.is_denied).encode())
                written.append(source)
        except OSError as error:
            self.drop_set(self._number, written)
            # As a trie says it.
            if error.errno != errno.ENOSPC:
                raise
            raise MapFull("denials", MAPS["denials"].max_entries) from error
        return self._number

    def drop_set(self, number: int, sources: Collection[Source]) -> None:
        """Delete a set that is nobody's any more."""
        # A program may have begun with it: what denies goes first, so that what is left only lets pass.
        for source in sorted(sources, key=lambda source: not source.is_denied):
            sys_bpf.map_delete(self._fds["denials"], source.key(number))

    def link(self, address: IP, ifindex: int, number: int) -> None:
        """Have the set say who is denied at an address, as long as this interface leads to it. Raises MapFull."""
        value = Prefiltered(ifindex, number).encode()
        try:
            sys_bpf.map_update(self._fds["prefiltered"], address_key(address), value)
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise MapFull("prefiltered", MAPS["prefiltered"].max_entries) from error
            raise

    def unlink(self, address: IP) -> None:
        """Have nobody denied at an address by programs."""
        sys_bpf.map_delete(self._fds["prefiltered"], address_key(address))

    def packets(self, entries: Iterable[tuple[int, Source]]) -> Iterator[tuple[int, Source, int]]:
        """How many SYNs these entries of sets have denied, but for those that have denied none."""
        known = {source.key(number): (number, source) for number, source in entries}
        shape = MAPS["denials"]
        for key, value in sys_bpf.map_items(self._fds["denials"], shape.key_bytes, shape.value_bytes):
            counted = Denial.decode(value).packets
            if counted and key in known:
                yield *known[key], counted


def is_denied(fds: Mapping[str, int], source: IP, destination: IP, port: int, ifindex: int) -> bool:
    """Whether the set of an address behind an interface denies a source to a port, asked as ztun_prefilter.h does.

    `fds`: the maps by name. Some of what is denied goes to the proxy all the same, as samples.
    """
    raw = sys_bpf.map_lookup(fds["prefiltered"], address_key(destination), MAPS["prefiltered"].value_bytes)
    of = Prefiltered.decode(raw) if raw is not None else None
    if of is None or of.ifindex != ifindex:
        return False
    for each in (port,) if port == HBONE_PORT else (port, OTHER_PORTS):
        key = DenialKey(of.set, each, address_key(source), ADDRESS_BITS).encode()
        found = sys_bpf.map_lookup(fds["denials"], key, MAPS["denials"].value_bytes)
        if found is not None:
            return Denial.decode(found).is_denied
    return False


def prefiltered(fd: int) -> dict[IP, Prefiltered]:
    """Which set is whose."""
    items = sys_bpf.map_items(fd, MAPS["prefiltered"].key_bytes, MAPS["prefiltered"].value_bytes)
    return {address_of(key): Prefiltered.decode(value) for key, value in items}


def denials(fd: int) -> dict[DenialKey, Denial]:
    """Every entry of every set."""
    items = sys_bpf.map_items(fd, MAPS["denials"].key_bytes, MAPS["denials"].value_bytes)
    return {DenialKey.decode(key): Denial.decode(value) for key, value in items}
