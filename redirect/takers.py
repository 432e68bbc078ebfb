"""Who gets new connections, by slot and of the owners of listeners: put there in an order in which no SYN is lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from redirect.layout import SLOTS
from redirect.maps import Maps


def fill(maps: Maps, fds: Mapping[str, int]) -> None:
    """A listening socket for each slot. Raises KeyError."""
    for name, slot in SLOTS.items():
        maps.put_listener(slot, fds[name])


def clear(maps: Maps, only: Collection[str]) -> None:
    """Empties these slots; none: all, and those of the owners."""
    for name in only or SLOTS:
        maps.delete_listener(SLOTS[name])
    if not only:
        put(maps, (), have_rings=False)


def put(maps: Maps, fds: Sequence[Mapping[str, int]], *, have_rings: bool) -> None:
    """The listening sockets of each owner, by name of SLOTS, in place of those that are there. Raises KeyError.

    Those of one pair of addresses go to these in turn. Where they `have_rings`, SYNs of pods that ask are held in the
    owners' `rings`, spread by addresses and ports. None: the listeners' own group.
    """
    count = len(fds)
    present = set(maps.takers())
    # Workers that an earlier agent left go on accepting, and what they dial comes back to them by this choice.
    if maps.settings.takers != count or len(present) != len(SLOTS) * count:
        maps.put_conf(replace(maps.settings, owners=0, takers=0))
    for slot, owner in present:
        if owner >= count:
            maps.delete_taker(slot, owner)
    for owner, names in enumerate(fds):
        for name, slot in SLOTS.items():
            maps.put_taker(slot, owner, names[name])
    maps.put_conf(replace(maps.settings, owners=count if have_rings else 0, takers=count))
