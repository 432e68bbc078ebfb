"""YAML text to trees of nodes that remember their lines: the ground that errors of manifests stand on.

Reads the stream of parser events and builds the tree itself, because libyaml's composer recurses and dies of a
deeply nested file. Aliases share their node; a node inside itself, a depth past 64 and a key given
twice are errors. Scalars keep their text; whether it is a number is asked of YAML 1.1's rules, as kubectl does.
Knows nothing about Kubernetes: `fields` reads values out of these trees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

DEPTH_LIMIT = 64
STRING_TAG = "tag:yaml.org,2002:str"
NULL_TAG = "tag:yaml.org,2002:null"
INT_TAG = "tag:yaml.org,2002:int"
BOOL_TAG = "tag:yaml.org,2002:bool"
NOT_TEXT = frozenset({NULL_TAG, INT_TAG, BOOL_TAG, "tag:yaml.org,2002:float"})


class ManifestError(ValueError):
    """A manifest that cannot be used. `str()` names file, line, document (from 1) and field."""

    def __init__(
        self, problem: str, *, file: str = "", line: int = 0, document: int = 0, field: str = ""
    ) -> None:
        self.problem, self.file, self.line, self.document, self.field = problem, file, line, document, field
        super().__init__(problem)

    def __str__(self) -> str:
        place = ", ".join(filter(None, (f"document {self.document}" if self.document else "", self.field)))
        return f"{self.file}:{self.line}: {place + ': ' if place else ''}{self.problem}"


@dataclass(slots=True)
class Scalar:
    text: str
    tag: str
    line: int


@dataclass(slots=True)
class Sequence:
    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    line: int
    entries: dict[str, Node] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


def read_documents(file: str, text: str) -> Iterator[tuple[int, Node]]:
    """Each document of the text with its number, from 1; empty ones are counted and left out.

    Raises ManifestError; documents before the broken place have been yielded by then.
    """
    number = 0
    try:
        events = yaml.parse(_printable(file, text), Loader=yaml.CSafeLoader)
        for event in events:
            if isinstance(event, DocumentStartEvent):
                number += 1
                root = _Builder(file, number).build(events)
                if not (isinstance(root, Scalar) and root.tag == NULL_TAG):
                    yield number, root
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        said = " ".join(filter(None, (error.context, error.problem)))
        raise ManifestError(f"not YAML: {said}", file=file, line=line, document=max(number, 1)) from error
    except yaml.YAMLError as error:
        raise ManifestError(f"not YAML: {error}", file=file, line=1, document=max(number, 1)) from error


def _printable(file: str, text: str) -> str:
    """JSON may be indented with tabs, which YAML refuses; a raw tab inside a JSON string is illegal anyway."""
    for number, line in enumerate(text.split("\n"), 1):
        if any("\ud800" <= c <= "\udfff" or c == "\0" for c in line):
            raise ManifestError("a character that is no text", file=file, line=number, document=1)
    return text.replace("\t", " ") if text.lstrip().startswith(("{", "[")) else text


class _Builder:
    """One document's tree out of the events, without recursion."""

    def __init__(self, file: str, document: int) -> None:
        self._file = file
        self._document = document
        self._resolve: Callable[..., str] = yaml.resolver.Resolver().resolve
        self._anchors: dict[str, Node | None] = {}
        self._open: list[tuple[Sequence | Mapping, str | None]] = []
        self._keys: list[Scalar | None] = []

    def build(self, events: Iterator[Event]) -> Node:
        for event in events:
            node = self._node(event)
            if node is not None and not self._open:
                return node
        raise self._error("the document has no end", 0)

    def _node(self, event: Event) -> Node | None:
        """The node that this event completes, after it went into the collection around it."""
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, SequenceStartEvent | MappingStartEvent):
            self._begin(event, line)
            return None
        if isinstance(event, SequenceEndEvent | MappingEndEvent):
            node, anchor = self._open.pop()
            self._keys.pop()
            return self._place(node, anchor)
        if isinstance(event, AliasEvent):
            known = self._anchors.get(event.anchor or "")
            if known is None:
                raise self._error(f"*{event.anchor} refers to itself or to nothing", line)
            return self._place(known, None)
        if isinstance(event, ScalarEvent):
            tag = event.tag if event.tag and event.tag != "!" else ""
            resolved = tag or self._resolve(yaml.ScalarNode, event.value, event.implicit)
            return self._place(Scalar(event.value, resolved, line), event.anchor)
        raise self._error("the document ends in the middle", line)

    def _begin(self, event: SequenceStartEvent | MappingStartEvent, line: int) -> None:
        if len(self._open) >= DEPTH_LIMIT:
            raise self._error(f"nested deeper than {DEPTH_LIMIT} levels", line)
        node = Sequence(line) if isinstance(event, SequenceStartEvent) else Mapping(line)
        self._open.append((node, event.anchor))
        self._keys.append(None)

    def _place(self, node: Node, anchor: str | None) -> Node:
        # Registered when complete: an alias inside its own anchor finds nothing, so no tree is cyclic.
        if anchor is not None:
            self._anchors[anchor] = node
        if self._open:
            parent = self._open[-1][0]
            if isinstance(parent, Sequence):
                parent.items.append(node)
            else:
                self._into_mapping(parent, node)
        return node

    def _into_mapping(self, parent: Mapping, node: Node) -> None:
        key = self._keys[-1]
        if key is not None:
            parent.entries[key.text] = node
            self._keys[-1] = None
        elif not isinstance(node, Scalar):
            raise self._error("a key is a list or a mapping; it must be text", node.line)
        elif node.text in parent.entries:
            raise self._error(f"the key {node.text!r} is given twice", node.line)
        elif node.text == "<<":
            raise self._error("merge keys (<<) are not understood; write the fields out", node.line)
        else:
            self._keys[-1] = node

    def _error(self, problem: str, line: int) -> ManifestError:
        return ManifestError(problem, file=self._file, line=line, document=self._document)
