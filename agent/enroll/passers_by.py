"""Interfaces of the node that changed and are none of ours: does one of them lead to a wished pod?

A node's other pods come and go, and each makes the kernel tell of its interface half a dozen times. Whether that
concerns anybody is seen here without reading everything. Blocking; in the thread of the kernel side.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.enroll.search import is_elsewhere, namespace_device
from agent.enroll.sighting import Sighting
from agent.enroll.wish import PodKey, Wish
from redirect import rtnetlink


@dataclass(frozen=True, slots=True)
class Passed:
    """`present`: those that exist. `concern`: a wished pod may be found, or found elsewhere, by a whole look."""

    present: frozenset[int]
    concern: bool


def look(
    ifindexes: Collection[int], wishes: Mapping[PodKey, Wish], sightings: Mapping[PodKey, Sighting]
) -> Passed:
    """What a whole look would make of them. Raises OSError."""
    rows = [row for index in sorted(ifindexes) if (row := rtnetlink.link(index)) is not None]
    present = frozenset(row.ifindex for row in rows)
    namespaces = {seen.nsid for seen in sightings.values()} - {None}
    if any(row.peer_nsid in namespaces for row in rows):
        return Passed(present, concern=True)
    device = namespace_device()
    return Passed(present, any(_is_open(wish, sightings.get(key), device) for key, wish in wishes.items()))


def _is_open(wish: Wish, seen: Sighting | None, device: int) -> bool:
    """Whether anything that appears may be the pod's: it is looked for, or its namespace has been replaced."""
    if seen is None or seen.place is None or seen.place.refusal:
        return True
    return is_elsewhere(wish.where, seen.place, device)
