"""A dump as JSON for people to read, its rows made one after another: of a large mesh it is many megabytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

INDENT = 2


def written(sections: Iterable[tuple[str, Any]]) -> bytes:
    """An object of these names and values. A value that is an iterator becomes a list."""
    text = bytearray(b"{")
    comma = ""
    for name, value in sections:
        text += f"{comma}\n{' ' * INDENT}{json.dumps(name)}: ".encode()
        for piece in _listed(value) if isinstance(value, Iterator) else [_value(value, 1)]:
            text += piece.encode()
        comma = ","
    text += b"\n}\n"
    return bytes(text)


def _listed(rows: Iterator[Any]) -> Iterator[str]:
    comma, end = "[", "]"
    margin = " " * INDENT * 2
    for row in rows:
        yield f"{comma}\n{margin}{_value(row, 2)}"
        comma, end = ",", f"\n{' ' * INDENT}]"
    yield end if comma == "," else "[]"


def _value(value: Any, depth: int) -> str:
    # A line break inside of a text is escaped: those that are left are ours.
    return json.dumps(value, indent=INDENT).replace("\n", "\n" + " " * INDENT * depth)
