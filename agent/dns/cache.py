"""Answers that may be given again: those of name servers until their time is over, those of the mesh until it changes.

Keys are what was asked, byte for byte but for the number of the query, by which pod and where: one pod's answers are
never another's. Bounded; who was not asked for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.dns.records import OPT, Record, aged, lifetime_s

MOST_ENTRIES = 4096
MOST_BYTES = 4096
"""Of one answer; larger ones are rare, and asked for anew."""
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """A mapping of at most so many entries."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()


@dataclass(frozen=True, slots=True)
class Kept:
    """Of a name server. Times are of the monotonic clock; lifetimes in it, at `ttls_at`, count from `since_s`."""

    message: bytes
    ttls_at: tuple[int, ...]
    since_s: float
    until_s: float

    def numbered(self, number: bytes, now_s: float) -> bytes:
        """For a query of this number, with the time that is left."""
        message = bytearray(self.message)
        message[:2] = number
        by_s = int(now_s - self.since_s)
        if by_s:
            aged(message, self.ttls_at, by_s)
        return bytes(message)


def kept(message: bytes, found: list[Record], now_s: float) -> Kept | None:
    """What to keep of an answer with these records; None: nothing."""
    if len(message) > MOST_BYTES or not (life_s := lifetime_s(message, found)):
        return None
    ttls_at = tuple(record.ttl_at for record in found if record.kind != OPT)
    return Kept(message, ttls_at, now_s, now_s + life_s)
