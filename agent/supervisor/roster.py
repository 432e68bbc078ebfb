"""Who serves which listeners: a pure ledger of owners (sets of listeners) and workers.

There are as many owners as workers; owner N belongs to worker N. A worker that dies or stalls has its owner
served by a live one at once, so that no queued connection is lost; its successor gets the owner back. What
to do comes back as a list of grants and releases; the caller sends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Grant:
    """Worker `slot` starts to accept on the listeners of `owner`."""

    owner: int
    slot: int


@dataclass(frozen=True, slots=True)
class Release:
    """Worker `slot` stops accepting on the listeners of `owner`."""

    owner: int
    slot: int


Move = Grant | Release


@dataclass(slots=True)
class Roster:
    """The ledger. `serving[owner]` are the slots that accept on it."""

    count: int
    alive: set[int] = field(default_factory=set)
    serving: dict[int, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for owner in range(self.count):
            self.serving.setdefault(owner, set())

    def adopted(self, found: Mapping[int, Set[int]]) -> list[Move]:
        """Workers are there already: by slot the owners that each serves.

        All at once: else the first would have for a moment what others serve, and take what they dial to themselves.
        """
        for slot, owners in found.items():
            self.alive.add(slot)
            for owner in owners & self.serving.keys():
                self.serving[owner].add(slot)
        return [move for slot in found for move in self.arrived(slot)]

    def arrived(self, slot: int) -> list[Move]:
        """A worker is there."""
        self.alive.add(slot)
        moves: list[Move] = []
        if slot in self.serving and slot not in self.serving[slot]:
            moves.append(self._grant(slot, slot))
        moves += self._orphans_to(slot)
        # The owner itself is back: whoever stood in for it hands over.
        moves += [self._release(slot, other) for other in sorted(self.serving.get(slot, set()) - {slot})]
        return moves

    def died(self, slot: int) -> list[Move]:
        """A worker is gone: its listeners go to the live worker with the fewest."""
        self.alive.discard(slot)
        for slots in self.serving.values():
            slots.discard(slot)
        moves: list[Move] = []
        for owner, slots in self.serving.items():
            stand_in = self._least_loaded(exclude=slots)
            if not slots and stand_in is not None:
                moves.append(self._grant(owner, stand_in))
        return moves

    def stalled(self, owner: int, *, is_alone: bool = False) -> list[Move]:
        """Nobody took from the owner's accept queue for too long: one more worker serves it.

        With `is_alone` it does so by itself. `arrived` gives it back to a worker that has come round.
        """
        before = sorted(self.serving[owner])
        stand_in = self._least_loaded(exclude=self.serving[owner])
        if stand_in is None:
            return []
        releases = [self._release(owner, slot) for slot in before if is_alone]
        return [self._grant(owner, stand_in), *releases]

    def _orphans_to(self, slot: int) -> list[Move]:
        return [self._grant(owner, slot) for owner, slots in self.serving.items() if not slots]

    def _grant(self, owner: int, slot: int) -> Move:
        self.serving[owner].add(slot)
        return Grant(owner, slot)

    def _release(self, owner: int, slot: int) -> Move:
        self.serving[owner].discard(slot)
        return Release(owner, slot)

    def _least_loaded(self, exclude: set[int]) -> int | None:
        candidates = self.alive - exclude
        return min(candidates, key=lambda slot: (self._load(slot), slot), default=None)

    def _load(self, slot: int) -> int:
        return sum(slot in slots for slots in self.serving.values())
