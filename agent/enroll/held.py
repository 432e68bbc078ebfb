"""The interfaces that are captured, whatever for: pure. One is held until its pod's wish ends, or it is gone.

Held is not served: an interface that is held only lets nothing through. What an earlier agent captured is held with
the addresses that it has, though nobody may know yet whose it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from agent.enroll.sighting import Sighting
from agent.enroll.wish import PodKey, Wish
from redirect.layout import NO_MAC, Owner
from redirect.place import Place


def owner_of(pod: PodKey, uid: str) -> str:
    """The note beside an interface's entries in the kernel that says whose it is, which `Held.of_pin` reads."""
    text = f"{pod} {uid}".strip()
    # Kubernetes has no names that long; without the note a restart knows the interface only.
    return text if len(text.encode()) <= Owner.FORMAT.size else ""


@dataclass(frozen=True, slots=True)
class Held:
    """One interface. `pod` is None where nobody knows whose it is; `place` is what it has while it is not served.

    `uid`: which of the pods of that name; empty where that is not known.
    """

    pod: PodKey | None
    place: Place
    uid: str = ""

    @classmethod
    def of_pin(cls, place: Place) -> Held:
        """As an earlier agent captured it: `owner` of the place is what `owner_of` made it."""
        words = place.owner.split()
        namespace, slash, name = words[0].partition("/") if words else ("", "", "")
        if not slash:
            return cls(None, place)
        return cls(PodKey(namespace, name), place, words[1] if len(words) > 1 else "")

    def owned(self, place: Place) -> Place:
        """A place of this interface, with whose it is in it, for the agent after this one."""
        owner = owner_of(self.pod, self.uid) if self.pod is not None else ""
        return place if place.owner == owner else replace(place, owner=owner)


@dataclass(frozen=True, slots=True)
class Mark:
    """One pod's wish and what was captured, at one moment."""

    pod: PodKey
    wish: Wish | None
    held: frozenset[int]


@dataclass(frozen=True, slots=True)
class HeldInterfaces:
    """All of them, by ifindex."""

    by_index: Mapping[int, Held] = field(default_factory=dict)
    draining: frozenset[PodKey] = frozenset()
    """Pods that are let go as soon as what the mesh carries for them has ended."""

    @classmethod
    def of_pins(cls, places: Iterable[Place]) -> HeldInterfaces:
        """What an earlier agent captured."""
        return cls({place.ifindex: Held.of_pin(place) for place in places})

    def seen(
        self, sightings: Mapping[PodKey, Sighting], present: Mapping[int, str], wishes: Mapping[PodKey, Wish]
    ) -> HeldInterfaces:
        """With those that lead to wished pods, each owned by its pod, and without those that are gone."""
        held = {index: each for index, each in self.by_index.items() if index in present}
        for key, seen in sightings.items():
            uid = wishes[key].uid
            for index in seen.ends & present.keys():
                known = held.get(index)
                if known is None:
                    held[index] = Held(key, Place(index, present[index], (), NO_MAC, ()), uid)
                elif (known.pod, known.uid) != (key, uid):
                    held[index] = Held(key, known.place, uid)
        return replace(self, by_index=held)

    def without(self, pod: PodKey) -> HeldInterfaces:
        left = {index: each for index, each in self.by_index.items() if each.pod != pod}
        return HeldInterfaces(left, self.draining - {pod})

    def drained(self, pod: PodKey) -> HeldInterfaces:
        return replace(self, draining=self.draining | {pod})

    def stayed(self, pod: PodKey) -> HeldInterfaces:
        """As if it had never been about to go."""
        return replace(self, draining=self.draining - {pod})

    def left(self, wishes: Collection[PodKey]) -> dict[PodKey, str]:
        """Pods for which something is held though nobody wishes for them, with their uids."""
        return {
            each.pod: each.uid
            for each in self.by_index.values()
            if each.pod is not None and each.pod not in wishes
        }

    def only(self, indexes: Iterable[int]) -> HeldInterfaces:
        wanted = frozenset(indexes)
        return replace(
            self, by_index={index: each for index, each in self.by_index.items() if index in wanted}
        )

    @property
    def indexes(self) -> frozenset[int]:
        return frozenset(self.by_index)

    @property
    def names(self) -> dict[int, str]:
        """ifindex -> name"""
        return {index: each.place.ifname for index, each in self.by_index.items()}

    def bridges(self, sightings: Iterable[Sighting]) -> frozenset[int]:
        """Those that interfaces are ports of, held ones and those of pods that were found."""
        places = (*(seen.place for seen in sightings), *(each.place for each in self.by_index.values()))
        return frozenset(
            place.bridge.ifindex for place in places if place is not None and place.bridge is not None
        )

    def unwished(self, wishes: Collection[PodKey]) -> tuple[Held, ...]:
        """Those that no wish is for: nobody knows their pod, or it is wanted no longer."""
        return tuple(each for each in self.by_index.values() if each.pod is None or each.pod not in wishes)

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
                place = each.owned(by_index[index])
                yield replace(place, is_draining=True) if each.pod in self.draining else place
            else:
                addresses = tuple(ip for ip in each.place.addresses if ip not in taken)
                is_whole = addresses == each.place.addresses
                yield each.owned(each.place if is_whole else replace(each.place, addresses=addresses))
