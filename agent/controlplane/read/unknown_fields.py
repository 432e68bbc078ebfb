"""Fields that a kind does not have, or that say nothing: where they stand, and what was meant. Pure.

An API server refuses an object with unknown fields (`kubectl apply` validates strictly), so that a misspelt or
misplaced one never becomes a policy that does something else than it says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from agent.controlplane.read.fields import Field
from agent.controlplane.read.schema import Schema
from agent.controlplane.read.yaml_tree import NULL_TAG, ManifestError, Mapping, Scalar, Sequence

LIKENESS = 0.75
INDEX = re.compile(r"\[[0-9]+\]")


@dataclass(frozen=True, slots=True)
class UnknownField:
    """`meant` is the path that was most likely meant, empty if nothing is like it."""

    error: ManifestError
    meant: str

    @property
    def told(self) -> frozenset[str]:
        """Fields whose faults go with this one: what was meant, and the field beside it that it belongs into."""
        told = {self.meant, INDEX.sub("", self.meant)}
        here, inside = (path.rpartition(".")[0] for path in (self.error.field, self.meant))
        return frozenset(told | {inside} if inside.startswith(f"{here}.") else told)


def unknown_fields(root: Field, schema: Schema) -> Iterator[UnknownField]:
    """Every field of an object that its kind does not have, in the order of the text."""
    yield from _below(root, schema, _Meaning(schema))


def _below(field: Field, schema: Schema, meaning: _Meaning) -> Iterator[UnknownField]:
    if isinstance(field.node, Sequence):
        for item in field.each():
            if isinstance(item.node, Mapping):
                yield from _below(item, schema, meaning)
    elif isinstance(field.node, Mapping):
        for name in field.node.entries:
            if name not in schema and "*" not in schema:
                yield meaning.of(field, name, schema)
            else:
                inner = schema[name if name in schema else "*"]
                if inner is not None:
                    yield from _below(field.get(name), inner, meaning)


def valueless_fields(root: Field, schema: Schema) -> Iterator[ManifestError]:
    """Fields of the spec that are given without a value, as a template leaves them: `from:` would mean everybody."""
    spec = schema["spec"]
    if spec is not None and isinstance(root.node, Mapping):
        yield from _valueless(root, {"spec": spec})


def _valueless(field: Field, schema: Schema) -> Iterator[ManifestError]:
    if isinstance(field.node, Sequence):
        for item in field.each():
            if isinstance(item.node, Mapping):
                yield from _valueless(item, schema)
    elif isinstance(field.node, Mapping):
        for name, node in field.node.entries.items():
            inner = schema.get(name, schema.get("*"))
            if isinstance(node, Scalar) and node.tag == NULL_TAG:
                if name in schema or "*" in schema:
                    yield field.get(name).error("it has no value: fill it, or leave the field out")
            elif inner is not None:
                yield from _valueless(field.get(name), inner)


class _Meaning:
    """Guesses what was meant by a name, from all names of the kind."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def of(self, parent: Field, name: str, siblings: Schema) -> UnknownField:
        meant = self._meant(parent, name, siblings)
        takes = f"{parent.path or 'the object'} takes {', '.join(siblings)}"
        hint = f"did you mean {meant}?" if meant else takes
        return UnknownField(parent.get(name).error(f"unknown field; {hint}"), meant)

    def _meant(self, parent: Field, name: str, siblings: Schema) -> str:
        prefix = f"{parent.path}." if parent.path else ""
        for sibling in siblings:
            if sibling.lower() == name.lower():
                return prefix + sibling
        if close := get_close_matches(name, list(siblings), 1, LIKENESS):
            return prefix + close[0]
        elsewhere = dict(reversed(list(_paths(self._schema, ""))))  # the outermost place of a name counts
        close = [name] if name in elsewhere else get_close_matches(name, list(elsewhere), 1, LIKENESS)
        return _placed(elsewhere[close[0]], parent.path) if close else ""


def _placed(path: str, place: str) -> str:
    """A path with the indices of `place`, as far as that leads the same way."""
    names, here = path.split("."), place.split(".")
    for number, (name, there) in enumerate(zip(names, here, strict=False)):
        if INDEX.sub("", there) != name:
            break
        names[number] = there
    return ".".join(names)


def _paths(schema: Schema, prefix: str) -> Iterator[tuple[str, str]]:
    """Every name of a kind with its path, outer ones first."""
    for name in schema:
        yield name, prefix + name
    for name, inner in schema.items():
        if inner is not None:
            yield from _paths(inner, f"{prefix}{name}.")
