"""A live thing as plain values, for the process that goes on with it: what of it travels, and the bytes it travels as.

A unit is one connection with all that hangs on it, its descriptors apart. Bytes: u32 length of the head, the head
(JSON: format, kind and fields, each bytes value replaced by its index), then the blobs, each behind a u32 length.
Secrets are in it: it goes from one process of ours to another by a socket that both were given, and never to disk.
Strict on the way in, as these are keys, windows and identities: what is unknown, missing, too large or of another
type is refused by name, and nothing is guessed.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORMAT = 1
"""Of everything that classes put into their state: a field that comes, goes or means something else is a new one."""
MAX_UNIT_BYTES = 160 << 20
"""A link whose 200 streams are all read by nobody holds some 66 MB, and as much again is on its way out."""
MAX_HEAD_BYTES = 32 << 20
MAX_DEPTH = 12
_LENGTH = struct.Struct(">I")
_BLOB = "$blob"

PlainValue = str | int | float | bool | None | bytes | Sequence["PlainValue"] | Mapping[str, "PlainValue"]
"""Sequences arrive as lists, mappings as dicts."""
State = dict[str, PlainValue]


class BadUnit(Exception):
    """It cannot be gone on with from this: refuse it, so that whoever has it goes on with it."""


class StaysHere(Exception):
    """It cannot be frozen as it is by now; in words why."""


@dataclass(frozen=True, slots=True)
class Unit:
    """`kind` says who reads `fields`."""

    kind: str
    fields: State

    def __repr__(self) -> str:  # secrets stay out of logs
        return f"Unit({self.kind})"


def encode(unit: Unit, format_: int = FORMAT) -> bytes:
    """Raises BadUnit where it is larger than anybody would take. `format_`: what its fields are of."""
    blobs: list[bytes] = []
    told = [format_, unit.kind, _lift(unit.fields, blobs)]
    head = json.dumps(told, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    data = b"".join(
        [_LENGTH.pack(len(head)), head, *(part for b in blobs for part in (_LENGTH.pack(len(b)), b))]
    )
    if len(head) > MAX_HEAD_BYTES or len(data) > MAX_UNIT_BYTES:
        raise BadUnit(f"a unit of {len(data)} bytes, {len(head)} of them values, is too large")
    return data


def values_bytes(data: bytes) -> int:
    """How much of an encoded unit is its values. The rest is only carried: keys, and what is under way."""
    return _LENGTH.size + int(_LENGTH.unpack_from(data)[0])


def _lift(value: PlainValue, blobs: list[bytes]) -> object:
    # What most values are comes first, and each type by itself: a union, and an abstract class, is asked ten times as
    # long, and a tunnel has a hundred values.
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, dict):
        return _lifted(value, blobs)
    if isinstance(value, float):
        return value
    if isinstance(value, bytes):
        blobs.append(value)
        return {_BLOB: len(blobs) - 1}
    if isinstance(value, list | tuple):
        return [_lift(item, blobs) for item in value]
    if isinstance(value, Mapping):
        return _lifted(dict(value), blobs)
    raise TypeError(f"{type(value).__name__} is no plain value")


def _lifted(fields: State, blobs: list[bytes]) -> dict[str, object]:
    if _BLOB in fields:
        raise ValueError(f"a field named {_BLOB}")
    return {name: _lift(item, blobs) for name, item in fields.items()}


def decode(data: bytes | memoryview, format_: int = FORMAT) -> Unit:
    """Raises BadUnit; also where it is of another format."""
    if not 4 <= len(data) <= MAX_UNIT_BYTES:
        raise BadUnit(f"a unit of {len(data)} bytes")
    with memoryview(data) as view:
        head, blobs = _parts(view)
    try:
        told = json.loads(head.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadUnit(f"a unit whose head is no JSON: {error}") from None
    if not isinstance(told, list) or not told or told[0] != format_ or isinstance(told[0], bool):
        said = told[0] if isinstance(told, list) and told else None
        raise BadUnit(f"a unit of the format {str(said)[:32]}; {format_} is what was to come")
    if len(told) != 3 or not isinstance(told[1], str) or not isinstance(told[2], dict):
        raise BadUnit("a unit whose head is not its format, kind and fields")
    fields = _lower(told[2], blobs, 0)
    if any(blob is not None for blob in blobs):
        raise BadUnit("a unit with bytes that belong to no field")
    if not isinstance(fields, dict):
        raise BadUnit("a unit whose fields are bytes")
    return Unit(told[1], fields)


def _parts(view: memoryview) -> tuple[bytes, list[bytes | None]]:
    """The head and the blobs."""
    (size,) = _LENGTH.unpack_from(view)
    if size > MAX_HEAD_BYTES or size > len(view) - 4:
        raise BadUnit(f"a unit of {len(view)} bytes with a head of {size}")
    head, at = bytes(view[4 : 4 + size]), 4 + size
    blobs: list[bytes | None] = []
    while at < len(view):
        if len(view) - at < 4:
            raise BadUnit("a unit that is cut")
        (size,) = _LENGTH.unpack_from(view, at)
        at += 4
        if size > len(view) - at:
            raise BadUnit("a unit that is cut")
        blobs.append(bytes(view[at : at + size]))
        at += size
    return head, blobs


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a field is told twice")
    return made


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _lower(value: Any, blobs: list[bytes | None], depth: int) -> PlainValue:
    """Each blob is in one place: `blobs` has None for those that are taken."""
    if value is None or isinstance(value, str):
        return value
    if depth > MAX_DEPTH:
        raise BadUnit("a unit that is nested too deep")
    if isinstance(value, dict):
        if _BLOB not in value:
            return {name: _lower(item, blobs, depth + 1) for name, item in value.items()}
        at = value[_BLOB]
        if len(value) != 1 or type(at) is not int or not 0 <= at < len(blobs):
            raise BadUnit("a unit that names bytes which are not there")
        blob, blobs[at] = blobs[at], None
        if blob is None:
            raise BadUnit("a unit that has the same bytes twice")
        return blob
    if isinstance(value, list):
        return [_lower(item, blobs, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise BadUnit("a unit with a number without end")
    return value  # type: ignore[no-any-return]  # what JSON has besides


class StateReader:
    """Reads one mapping strictly: each method takes one field, `done` refuses those that nobody took.

    All of them raise BadUnit, which names the field by `what` it is of. Bounds are inclusive.
    """

    __slots__ = ("_left", "_what")

    def __init__(self, what: str, value: PlainValue) -> None:
        if not isinstance(value, dict):
            raise BadUnit(f"{what}: {_kind(value)} in place of fields")
        self._what = what
        self._left: dict[str, PlainValue] = dict(value)

    def done(self) -> None:
        """Everything was read."""
        if self._left:
            raise BadUnit(f"{self._what}: unknown fields: {', '.join(sorted(self._left))[:200]}")

    def has(self, name: str) -> bool:
        """It is there, and not None: a None is taken by asking."""
        if self._left.get(name, self) is not None:
            return True
        del self._left[name]
        return False

    def refuse(self, name: str, why: str) -> BadUnit:
        """To raise, for what only the reader can judge."""
        return BadUnit(f"{self._what}: {name}: {why}")

    def value(self, name: str) -> PlainValue:
        """As it is."""
        if name not in self._left:
            raise BadUnit(f"{self._what}: {name} is missing")
        return self._left.pop(name)

    def flag(self, name: str) -> bool:
        value = self.value(name)
        if not isinstance(value, bool):
            raise self.refuse(name, f"{_kind(value)} in place of true or false")
        return value

    def integer(self, name: str, least: int = 0, most: int = (1 << 63) - 1) -> int:
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(name, f"{_kind(value)} in place of an integer")
        if not least <= value <= most:
            raise self.refuse(name, f"{value} is not between {least} and {most}")
        return value

    def number(self, name: str, least: float = 0.0, most: float = 1e12) -> float:
        """Seconds, mostly; an integer is one too."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(name, f"{_kind(value)} in place of a number")
        if not least <= value <= most:
            raise self.refuse(name, f"{value} is not between {least} and {most}")
        return float(value)

    def text(self, name: str, most: int = 1 << 16) -> str:
        """At most so many characters."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.refuse(name, f"{_kind(value)} in place of text")
        if len(value) > most:
            raise self.refuse(name, f"{len(value)} characters are more than {most}")
        return value

    def blob(self, name: str, most: int = MAX_UNIT_BYTES) -> bytes:
        value = self.value(name)
        if not isinstance(value, bytes):
            raise self.refuse(name, f"{_kind(value)} in place of bytes")
        if len(value) > most:
            raise self.refuse(name, f"{len(value)} bytes are more than {most}")
        return value

    def items(self, name: str, most: int) -> list[PlainValue]:
        """A list of at most so many."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.refuse(name, f"{_kind(value)} in place of a list")
        if len(value) > most:
            raise self.refuse(name, f"{len(value)} are more than {most}")
        return value

    def texts(self, name: str, most: int) -> list[str]:
        items = self.items(name, most)
        told = [item for item in items if isinstance(item, str)]
        if len(told) != len(items):
            raise self.refuse(name, "not all of it is text")
        return told

    def blobs(self, name: str, most: int) -> list[bytes]:
        items = self.items(name, most)
        told = [item for item in items if isinstance(item, bytes)]
        if len(told) != len(items):
            raise self.refuse(name, "not all of it is bytes")
        return told

    def within(self, name: str) -> StateReader:
        """The fields of a mapping in this one: read and `done` by themselves."""
        return StateReader(f"{self._what}: {name}", self.value(name))

    def each(self, name: str, most: int) -> list[StateReader]:
        """The same for a list of mappings."""
        return [
            StateReader(f"{self._what}: {name} {at}", item) for at, item in enumerate(self.items(name, most))
        ]


def _kind(value: PlainValue) -> str:
    return "nothing" if value is None else type(value).__name__
