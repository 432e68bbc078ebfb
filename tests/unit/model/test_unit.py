"""What one process tells another of a live connection: the same values come out, and nothing else is taken."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.unit import FORMAT, BadUnit, PlainValue, StateReader, Unit, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), 1 << 64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    | st.binary(max_size=8)
)
NAMES = st.text("abcdefg_", min_size=1, max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
UNITS = st.builds(Unit, NAMES, st.dictionaries(NAMES, VALUES, max_size=4))
WHOLE = Unit("link", {"secret": b"\0\1", "streams": [{"id": 1, "open": True}], "rest": b""})


def framed(head: object, *blobs: bytes) -> bytes:
    return told(json.dumps(head).encode(), *blobs)


def told(head: bytes, *blobs: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in (head, *blobs))


@given(UNITS)
def test_what_goes_in_comes_out(unit: Unit) -> None:
    again = decode(encode(unit))
    assert again == unit
    assert repr(again) == repr(unit) == f"Unit({unit.kind})"
    assert [type(v) for v in again.fields.values()] == [type(v) for v in unit.fields.values()]


@given(UNITS, st.data())
def test_bytes_that_changed_on_the_way_are_a_unit_or_refused_by_name(unit: Unit, data: st.DataObject) -> None:
    whole = bytearray(encode(unit))
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[at:]
    else:
        whole[at] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(whole))
    except BadUnit:
        pass


def test_a_cut_is_found_wherever_it_is() -> None:
    whole = encode(WHOLE)
    for at in range(len(whole)):
        if whole[at:] != b"\0\0\0\0":  # then the empty bytes behind it are missed instead
            with pytest.raises(BadUnit):
                decode(whole[:at])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (framed([FORMAT + 1, "link", {}]), f"format {FORMAT + 1}; {FORMAT} is what was to come"),
        (framed([True, "link", {}]), "format True"),
        (framed({"kind": "link"}), "format None"),
        (framed([FORMAT, 7, {}]), "kind and fields"),
        (framed([FORMAT, "link", []]), "kind and fields"),
        (framed([FORMAT, "link", {}, 1]), "kind and fields"),
        (framed([FORMAT, "link", {}], b"x"), "belong to no field"),
        (framed([FORMAT, "link", {"$blob": 0}], b"x"), "fields are bytes"),
        (framed([FORMAT, "link", {"a": {"$blob": 1}}], b"x"), "not there"),
        (framed([FORMAT, "link", {"a": {"$blob": -1}}], b"x"), "not there"),
        (framed([FORMAT, "link", {"a": {"$blob": False}}], b"x"), "not there"),
        (framed([FORMAT, "link", {"a": {"$blob": 0, "b": 1}}], b"x"), "not there"),
        (framed([FORMAT, "link", {"a": [{"$blob": 0}, {"$blob": 0}]}], b"x"), "twice"),
        (told(b'[1,"link",{"a":1,"a":2}]'), "told twice"),
        (told(b'[1,"link",{"a":NaN}]'), "no JSON"),
        (told(b'[1,"link",{"a":1e999}]'), "without end"),
        (told(b'[1,"link",{"a":' + b"[" * 13 + b"]" * 13 + b"}]"), "too deep"),
        (told(b'[1,"link",{"a":' + b"[" * 100_000), "no JSON"),
        (told('[1,"link",{}]'.encode("utf-16")), "no JSON"),
        (struct.pack(">I", 1 << 30) + b"[]", "head of"),
        (b"\0", "of 1 bytes"),
    ],
)
def test_what_is_no_unit_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadUnit, match=said):
        decode(data)


def test_only_plain_values_are_told() -> None:
    with pytest.raises(TypeError):
        encode(Unit("link", {"a": object()}))  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="blob"):
        encode(Unit("link", {"a": {"$blob": 1}}))
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(Unit("link", {"a": float("nan")}))


def read(fields: StateReader) -> list[object]:
    return [
        fields.flag("flag"),
        fields.integer("integer", 1, 9),
        fields.number("number", 0, 9),
        fields.text("text", 3),
        fields.blob("blob", 3),
        fields.texts("texts", 2),
        fields.text("maybe") if fields.has("maybe") else None,
        [each.integer("id") for each in fields.each("each", 2)],
    ]


GOOD: dict[str, PlainValue] = {
    "flag": True,
    "integer": 9,
    "number": 9,
    "text": "abc",
    "blob": b"abc",
    "texts": ["a", "b"],
    "maybe": None,
    "each": [{"id": 1}, {"id": 2}],
}


def test_fields_are_read_as_what_they_are() -> None:
    fields = StateReader("a link", GOOD)
    assert read(fields) == [True, 9, 9.0, "abc", b"abc", ["a", "b"], None, [1, 2]]
    fields.done()


@pytest.mark.parametrize("name", GOOD)
def test_a_field_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(BadUnit, match=f"a link: {name} is missing"):
        read(StateReader("a link", {key: value for key, value in GOOD.items() if key != name}))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("flag", 1, "flag: int in place of"),
        ("integer", True, "integer: bool in place of"),
        ("integer", 9.0, "integer: float in place of"),
        ("integer", 10, "10 is not between 1 and 9"),
        ("integer", 0, "0 is not between 1 and 9"),
        ("number", True, "number: bool in place of"),
        ("number", -0.5, "not between 0 and 9"),
        ("text", b"abc", "text: bytes in place of"),
        ("text", "abcd", "4 characters"),
        ("blob", "abc", "blob: str in place of"),
        ("blob", b"abcd", "4 bytes"),
        ("texts", ["a", 1], "not all of it is text"),
        ("texts", ["a", "b", "c"], "3 are more than 2"),
        ("texts", {}, "dict in place of a list"),
        ("text", None, "nothing in place of"),
        ("maybe", 1, "maybe: int in place of"),
        ("each", [{"id": 1}, 2], "each 1: int in place of fields"),
        ("each", [{"id": True}], "each 0: id: bool"),
    ],
)
def test_a_field_of_another_kind_is_named(name: str, value: PlainValue, said: str) -> None:
    with pytest.raises(BadUnit, match=said):
        read(StateReader("a link", {**GOOD, name: value}))


def test_a_field_that_nobody_knows_is_named() -> None:
    fields = StateReader("a link", {**GOOD, "more": 1, "again": 2})
    read(fields)
    with pytest.raises(BadUnit, match="a link: unknown fields: again, more"):
        fields.done()
