"""Resources in few bytes: what tells one apart lies in a row, what many say alike in an object that they share.

Of 100,000 workloads most is alike: those of one Deployment differ in name, address and place. So a row holds those, and
the numbers of a shape (the resource without them) and of a place. `at` makes the resource again; the last few thousand
are kept. A shelf is only ever added to, so all snapshots since its beginning share it; `Draft` begins a new one when
most of it is about resources that are gone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from struct import Struct
from typing import Generic, NamedTuple, Protocol, TypeVar

from agent.model.address import IP, ip_from_bytes
from agent.model.rows import CHUNK_BITS, Rows

HEAD = Struct("<5I")
"""Numbers of shape and place, bytes of the addresses, characters of name and of the second name."""
KEPT = 4096
V4, V6 = b"\x04", b"\x10"

T = TypeVar("T", bound=Hashable)


class Parts(NamedTuple):
    """A resource in parts: `shape` is it without the others."""

    shape: Hashable
    place: tuple[Hashable, ...]
    addresses: tuple[IP, ...]
    name: str
    second: str


class Cut(Protocol[T]):
    """Takes a resource apart and puts it together again."""

    def apart(self, resource: T) -> Parts: ...

    def together(
        self, shape: T, place: tuple[Hashable, ...], addresses: tuple[IP, ...], name: str, second: str
    ) -> T: ...


class Shelf(Generic[T]):
    """Resources by the number of their row."""

    def __init__(self, cut: Cut[T]) -> None:
        self._cut = cut
        self._rows = Rows()
        self._shapes: list[T] = []
        self._places: list[tuple[Hashable, ...]] = []
        self._known_shapes: dict[Hashable, int] = {}
        self._known_places: dict[tuple[Hashable, ...], int] = {}
        self._made: dict[int, T] = {}

    @property
    def total_bytes(self) -> int:
        """Of all rows, also of those that nobody needs any more."""
        return self._rows.total_bytes

    def put(self, resource: T) -> int:
        """The number of a new row."""
        parts = self._cut.apart(resource)
        shape = self._known_shapes.get(parts.shape)
        if shape is None:
            shape = self._known_shapes[parts.shape] = len(self._shapes)
            self._shapes.append(parts.shape)  # type: ignore[arg-type]
        place = self._known_places.get(parts.place)
        if place is None:
            place = self._known_places[parts.place] = len(self._places)
            self._places.append(parts.place)
        addresses = b"".join([(V4 if ip.version == 4 else V6) + ip.packed for ip in parts.addresses])
        name, second = parts.name.encode(), parts.second.encode()
        head = HEAD.pack(shape, place, len(addresses), len(name), len(second))
        return self._rows.add(head + addresses + name + second)

    def size_bytes(self, number: int) -> int:
        chunk, at = self._rows.at(number)
        _, _, addresses, name, second = HEAD.unpack_from(chunk, at)
        size: int = HEAD.size + addresses + name + second
        return size

    def shape(self, number: int) -> T:
        """What the resource has in common with others."""
        chunk, at = self._rows.at(number)
        shape: int = HEAD.unpack_from(chunk, at)[0]
        return self._shapes[shape]

    def place(self, number: int) -> tuple[Hashable, ...]:
        chunk, at = self._rows.at(number)
        place: int = HEAD.unpack_from(chunk, at)[1]
        return self._places[place]

    def kind(self, number: int) -> tuple[int, int, bool]:
        """Resources of one kind differ in names and addresses alone, and all have some address or none has."""
        chunk, at = self._rows.at(number)
        shape, place, address_bytes, _, _ = HEAD.unpack_from(chunk, at)
        return shape, place, address_bytes > 0

    def name(self, number: int) -> str:
        chunk, at = self._rows.at(number)
        _, _, address_bytes, name_bytes, _ = HEAD.unpack_from(chunk, at)
        at += HEAD.size + address_bytes
        name: str = chunk[at : at + name_bytes].decode()
        return name

    def numbers(self) -> Iterator[int]:
        """Of all rows, in the order in which they were added."""
        for chunk, length in enumerate(self._rows.lengths()):
            at = 1 if not chunk else 0
            while at < length:
                number = chunk << CHUNK_BITS | at
                yield number
                at += self.size_bytes(number)

    def at(self, number: int) -> T:
        """The resource; mostly the same object as the last time."""
        made = self._made.get(number)
        if made is None:
            if len(self._made) >= KEPT:
                self._made.clear()
            made = self._made[number] = self.made(number)
        return made

    def made(self, number: int) -> T:
        """The resource, as an object that nobody else has: for those who walk over many."""
        chunk, at = self._rows.at(number)
        shape, place, address_bytes, name_bytes, second_bytes = HEAD.unpack_from(chunk, at)
        at += HEAD.size
        addresses = addresses_in(bytes(chunk[at : at + address_bytes])) if address_bytes else ()
        at += address_bytes
        name_end = at + name_bytes
        name = chunk[at:name_end].decode()
        second = chunk[name_end : name_end + second_bytes].decode() if second_bytes else ""
        return self._cut.together(self._shapes[shape], self._places[place], addresses, name, second)


def addresses_in(packed: bytes) -> tuple[IP, ...]:
    """Addresses from a row, each behind its length."""
    if len(packed) == 5:
        return (ip_from_bytes(packed[1:]),)
    found: list[IP] = []
    at = 0
    while at < len(packed):
        end = at + 1 + packed[at]
        found.append(ip_from_bytes(packed[at + 1 : end]))
        at = end
    return tuple(found)
