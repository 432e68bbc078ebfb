"""Writes and reads what programs deny by: sets of sources and ports, and which set is whose.

A set is written whole before an address is given it, and an address changes its set in one write: each SYN is judged by
one set as a whole, or by none. The numbers of sets are not used again while an agent lives. Who is denied why is not
known here.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import IntEnum
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


class Order(IntEnum):
    """What is done about a difference, in the order in which it is done."""

    NO_LINK = 0
    NO_DENIAL = 1
    EXCEPTION = 2
    DENIAL = 3
    NO_EXCEPTION = 4
    LINK = 5


class Repair(NamedTuple):
    order: Order
    key: bytes


class PrefilterMaps:
    """The two maps of a generation, open. Close it."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError, LayoutMismatch."""
        self._fds: dict[str, int] = {}
        self._number = 0
        self._links: dict[bytes, tuple[int, int]] = {}
        self._entries: dict[bytes, bool] = {}
        self._linking = threading.Lock()
        """Who links or unlinks is in another thread than who compares."""
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
        self._links.clear()
        self._entries.clear()
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
                self._entries[source.key(self._number)] = source.is_denied
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
            self._entries.pop(source.key(number), None)
            sys_bpf.map_delete(self._fds["denials"], source.key(number))

    def link(self, address: IP, ifindex: int, number: int) -> None:
        """Have the set say who is denied at an address, as long as this interface leads to it. Raises MapFull."""
        with self._linking:
            self._link(address_key(address), ifindex, number)
            self._links[address_key(address)] = ifindex, number

    def unlink(self, address: IP) -> None:
        """Have nobody denied at an address by programs."""
        with self._linking:
            self._links.pop(address_key(address), None)
            sys_bpf.map_delete(self._fds["prefiltered"], address_key(address))

    # what somebody else has changed; in the thread that writes and deletes sets

    def drift(self) -> list[str]:
        """Where the maps are not as this has left them, in words. Raises OSError."""
        return [words for words, _ in self._differences()]

    def mend(self) -> list[str]:
        """Makes them so again; what was found. Never is more denied than was or is to be. Raises OSError, MapFull."""
        found = self._differences()
        # Whom somebody else has denied goes first, and who is denied comes last.
        for _, repair in sorted(found, key=lambda each: each[1].order):
            with self._linking:
                self._repair(repair)
        return [words for words, _ in found]

    def _differences(self) -> list[tuple[str, Repair]]:
        return [*self._of_links(), *self._of_entries()]

    def _of_links(self) -> Iterator[tuple[str, Repair]]:
        with self._linking:
            items = sys_bpf.map_items(
                self._fds["prefiltered"], MAPS["prefiltered"].key_bytes, MAPS["prefiltered"].value_bytes
            )
            found = {key: Prefiltered.decode(value) for key, value in items}
            wanted = dict(self._links)
        for key in found.keys() | wanted.keys():
            is_, ought = found.get(key), wanted.get(key)
            if ought is None:
                words = f"prefiltered has {address_of(key)}, which is not judged by programs"
                yield words, Repair(Order.NO_LINK, key)
            elif is_ is None or (is_.ifindex, is_.set) != ought:
                what = "is missing" if is_ is None else f"has set {is_.set} at interface {is_.ifindex}"
                words = f"prefiltered: {address_of(key)} {what} in place of set {ought[1]} at interface {ought[0]}"
                yield words, Repair(Order.LINK, key)

    def _of_entries(self) -> Iterator[tuple[str, Repair]]:
        shape = MAPS["denials"]
        items = sys_bpf.map_items(self._fds["denials"], shape.key_bytes, shape.value_bytes)
        # Not decoded: there may be tens of thousands, and this is asked every other second.
        found = {key: value[0] != 0 for key, value in items}
        if found == self._entries:
            return
        for key in found.keys() | self._entries.keys():
            is_, ought = found.get(key), self._entries.get(key)
            name = DenialKey.decode(key)
            which = f"denials: set {name.set}, port {name.port or 'others'}, {name.sources}"
            if ought is None:
                yield (
                    f"{which} is not of the agent",
                    Repair(Order.NO_DENIAL if is_ else Order.NO_EXCEPTION, key),
                )
            elif is_ != ought:
                what = "is missing" if is_ is None else f"is {'denied' if is_ else 'left alone'}"
                words = f"{which} {what} in place of {'denied' if ought else 'left alone'}"
                yield words, Repair(Order.DENIAL if ought else Order.EXCEPTION, key)

    def _repair(self, repair: Repair) -> None:
        """As it is wanted now: a link may have come or gone since."""
        key, link = repair.key, self._links.get(repair.key)
        match repair.order:
            case Order.LINK if link is not None:
                self._link(key, *link)
            case Order.NO_LINK if link is None:
                sys_bpf.map_delete(self._fds["prefiltered"], key)
            case Order.DENIAL | Order.EXCEPTION:
                sys_bpf.map_update(self._fds["denials"], key, Denial(repair.order is Order.DENIAL).encode())
            case Order.NO_DENIAL | Order.NO_EXCEPTION:
                sys_bpf.map_delete(self._fds["denials"], key)

    def _link(self, key: bytes, ifindex: int, number: int) -> None:
        try:
            sys_bpf.map_update(self._fds["prefiltered"], key, Prefiltered(ifindex, number).encode())
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise MapFull("prefiltered", MAPS["prefiltered"].max_entries) from error
            raise

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


def left_over(fds: Mapping[str, int], captured: Collection[int]) -> Iterator[str]:
    """What cannot be as an agent has left it, in words: `fds` as in `is_denied`, `captured`: interfaces."""
    sets = {key.set for key in denials(fds["denials"])}
    for address, of in prefiltered(fds["prefiltered"]).items():
        if of.ifindex not in captured:
            yield f"prefiltered: {address} is at interface {of.ifindex}, which is not captured"
        elif of.set not in sets:
            yield f"prefiltered: {address} has set {of.set}, which has no entries in denials"


def prefiltered(fd: int) -> dict[IP, Prefiltered]:
    """Which set is whose."""
    items = sys_bpf.map_items(fd, MAPS["prefiltered"].key_bytes, MAPS["prefiltered"].value_bytes)
    return {address_of(key): Prefiltered.decode(value) for key, value in items}


def denials(fd: int) -> dict[DenialKey, Denial]:
    """Every entry of every set."""
    items = sys_bpf.map_items(fd, MAPS["denials"].key_bytes, MAPS["denials"].value_bytes)
    return {DenialKey.decode(key): Denial.decode(value) for key, value in items}
