"""The interfaces that are captured, whatever for: pure. One is held until its pod's wish ends, or it is gone.

Held is not served: an interface that is held only lets nothing through. What an earlier agent captured is held with
the addresses that it has, though nobody may know yet whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from agent.enroll.sighting import Sighting
from agent.enroll.wish import PodKey
from redirect.layout import NO_MAC
from redirect.place import Place


@dataclass(frozen=True, slots=True)
class Held:
    """One interface. `pod` is None where nobody knows whose it is; `place` is what it has while it is not served."""

    pod: PodKey | None
    place: Place


@dataclass(frozen=True, slots=True)
class HeldInterfaces:
    """All of them, by ifindex."""

    by_index: Mapping[int, Held] = field(default_factory=dict)

    @classmethod
    def of_pins(cls, places: Iterable[Place]) -> HeldInterfaces:
        """What an earlier agent captured."""
        return cls({place.ifindex: Held(None, place) for place in places})

    def seen(self, sightings: Mapping[PodKey, Sighting], present: Mapping[int, str]) -> HeldInterfaces:
        """With those that lead to wished pods, each owned by its pod, and without those that are gone."""
        owners = {index: key for key, seen in sightings.items() for index in seen.ends if index in present}
        held = {
            index: replace(each, pod=owners.get(index, each.pod))
            for index, each in self.by_index.items()
            if index in present
        }
        for index, key in owners.items():
            held.setdefault(index, Held(key, Place(index, present[index], (), NO_MAC, ())))
        return HeldInterfaces(held)

    def without(self, pod: PodKey) -> HeldInterfaces:
        return HeldInterfaces({index: each for index, each in self.by_index.items() if each.pod != pod})

    def only(self, indexes: Iterable[int]) -> HeldInterfaces:
        wanted = frozenset(indexes)
        return HeldInterfaces({index: each for index, each in self.by_index.items() if index in wanted})

    @property
    def indexes(self) -> frozenset[int]:
        return frozenset(self.by_index)

    @property
    def unowned(self) -> tuple[Place, ...]:
        return tuple(each.place for each in self.by_index.values() if each.pod is None)

    def of(self, pod: PodKey) -> frozenset[int]:
        return frozenset(index for index, each in self.by_index.items() if each.pod == pod)

    def gone(self, present: Mapping[int, str]) -> Iterator[tuple[PodKey, str]]:
        """Pods whose interfaces are gone, with the names of those."""
        for index, each in self.by_index.items():
            if index not in present and each.pod is not None:
                yield each.pod, each.place.ifname

    def places(self, served: Iterable[Place]) -> Iterator[Place]:
        """What is to be captured. An address is with the pod that is served with it, and with no other."""
        by_index = {place.ifindex: place for place in served}
        taken = {address for place in by_index.values() for address in place.addresses}
        for index, each in self.by_index.items():
            if index in by_index:
                yield by_index[index]
            else:
                addresses = tuple(ip for ip in each.place.addresses if ip not in taken)
                yield replace(each.place, addresses=addresses)
