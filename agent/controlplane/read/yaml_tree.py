"""YAML text to trees of nodes that remember their lines: the ground that errors of manifests stand on.

Reads the stream of parser events and builds the tree itself, because libyaml's composer recurses and dies of a
deeply nested file. Aliases share their node; a node inside itself, a depth past 64, too many copies, a tag that is
not understood and a key given twice are errors, each of its own document: those beside it are read all the same.
Scalars keep their text; whether it is a number is asked of YAML 1.1's rules, as kubectl does. Knows nothing about
Kubernetes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

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
DOCUMENT_START = re.compile(r"^(?:%[^\n]*\n(?:[ \t]*(?:#[^\n]*)?\r?\n)*)*---(?=[ \t\r\n]|\Z)", re.MULTILINE)
"""The mark, with the directives (`%YAML 1.1`) before it."""
SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
NO_TEXT = re.compile("[\ud800-\udfff\0]")
STRING_TAG = "tag:yaml.org,2002:str"
NULL_TAG = "tag:yaml.org,2002:null"
MERGE_TAG = "tag:yaml.org,2002:merge"
INT_TAG = "tag:yaml.org,2002:int"
BOOL_TAG = "tag:yaml.org,2002:bool"
NOT_TEXT = frozenset({NULL_TAG, INT_TAG, BOOL_TAG, "tag:yaml.org,2002:float"})
TAGS = frozenset({"!", STRING_TAG, *NOT_TEXT, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
"""Tags that may be written. Any other asks for something that is not done here (`!vault`, `!!binary`)."""
COPIES_LIMIT = 100_000
"""How many nodes aliases may add to a document: a few lines of them can stand for billions."""


class ManifestError(ValueError):
    """A manifest that cannot be used. `str()` names file, line, document (from 1) and field.

    `more`: other faults of the same document, found by who read on.
    """

    more: tuple[ManifestError, ...] = ()

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
    """`lines`: where each key stands."""

    line: int
    entries: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True)
class Document:
    """One document, numbered from 1. With `errors` it has no `root`, or one where the fields they name are unsure."""

    number: int
    root: Node | None
    errors: tuple[ManifestError, ...] = ()


def read_documents(file: str, text: str, lines_before: int = 0, number: int = 0) -> Iterator[Document]:
    """The documents of the text; empty ones are counted and left out. `lines_before`, `number`: if it is a part."""
    last, json = number, is_json(text)
    try:
        for document in _Documents(file, text, lines_before, number, json).read():
            last = document.number
            if document.root is not None:
                yield document
    except ManifestError:
        # The parser cannot go on behind an error: each document by itself, from the broken one on.
        for lines, part in split_documents(text):
            for document in read_apart(file, part, lines_before + lines, number, json):
                number = document.number
                if number > last and (document.root is not None or document.errors):
                    yield document


def read_apart(file: str, text: str, lines_before: int, number: int, is_json: bool) -> Iterator[Document]:
    """The documents of a part of a text, empty ones too. `is_json`: whether the whole of it begins as JSON does."""
    try:
        yield from _Documents(file, text, lines_before, number, is_json).read()
    except ManifestError as error:
        yield Document(error.document, None, (error,))


def split_documents(text: str) -> Iterator[tuple[int, str]]:
    """The text cut before each document's mark, and how many lines stand before each part."""
    starts = [0, *(mark.start() for mark in DOCUMENT_START.finditer(text) if mark.start()), len(text)]
    lines_before = 0
    for start, end in itertools.pairwise(starts):
        yield lines_before, text[start:end]
        lines_before += text.count("\n", start, end)


def is_json(text: str) -> bool:
    """Whether it begins as JSON does."""
    return text.lstrip().startswith(("{", "["))


def _one_character(found: re.Match[str]) -> str:
    high, low = int(found[2], 16), int(found[3], 16)
    return f"{found[1]}\\U{0x10000 + ((high - 0xD800) << 10) + low - 0xDC00:08X}"


TEMPLATE = "it is a template: write what it renders to (`helm template`)"


def _hint(line: list[str]) -> str:
    """What most often makes a line no YAML."""
    text = "".join(line)
    if "\t" in text[: len(text) - len(text.lstrip())]:
        return "it is indented with a tab: write spaces"
    return TEMPLATE if "{{" in text else ""


class _Documents:
    """The documents of a text whose first line is number `lines_before` + 1 of its file."""

    def __init__(self, file: str, text: str, lines_before: int, number: int, is_json: bool) -> None:
        self._file, self._text, self._lines_before = file, text, lines_before
        self._number, self._is_json = number, is_json

    def read(self) -> Iterator[Document]:
        """Each document, without a root if it is empty. Raises ManifestError where the parser cannot go on."""
        is_inside = False
        try:
            events = yaml.parse(self._printable(), Loader=yaml.CSafeLoader)
            for event in events:
                if isinstance(event, DocumentStartEvent):
                    self._number += 1
                    is_inside = True
                    builder = _Builder(self._file, self._number, self._lines_before)
                    root = builder.build(events)
                    is_empty = isinstance(root, Scalar) and root.tag == NULL_TAG
                    yield Document(self._number, None if is_empty else root, tuple(builder.errors))
                    is_inside = False
        except yaml.YAMLError as error:
            raise self._error(error, self._number if is_inside else self._number + 1) from error

    def _printable(self) -> str:
        """JSON may be indented with tabs, and write a character as two escapes, which YAML refuses; a raw tab inside
        a JSON string is illegal anyway."""
        found = NO_TEXT.search(self._text)
        if found:
            line = self._lines_before + self._text.count("\n", 0, found.start()) + 1
            raise ManifestError(
                "a character that is no text", file=self._file, line=line, document=self._number + 1
            )
        if not self._is_json:
            return self._text
        return SURROGATES.sub(_one_character, self._text.replace("\t", " "))

    def _error(self, error: yaml.YAMLError, document: int) -> ManifestError:
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            line = mark.line if mark else 0
            said = " ".join(filter(None, (error.context, error.problem)))
        else:
            line, said = (
                self._text.count("\n", 0, getattr(error, "position", 0) or 0),
                str(error).split("\n")[0],
            )
        if hint := _hint(self._text.split("\n")[line : line + 1]):
            said = f"{said}; {hint}"
        return ManifestError(
            f"not YAML: {said}", file=self._file, line=self._lines_before + line + 1, document=document
        )


class _Anchored(NamedTuple):
    node: Node
    size: int
    height: int


class _Builder:
    """One document's tree out of the events, without recursion."""

    def __init__(self, file: str, document: int, lines_before: int) -> None:
        self._file = file
        self._document = document
        self._lines_before = lines_before
        self._resolve: Callable[..., str] = yaml.resolver.Resolver().resolve
        self._anchors: dict[str, _Anchored] = {}
        self._copies = 0
        self._open: list[tuple[Sequence | Mapping, str | None]] = []
        self._keys: list[Scalar | None] = []
        self._merged: list[set[str]] = []
        """Of the open collections: keys that come of a merge (`<<: *anchor`), which those written out replace."""
        self._sizes: list[tuple[int, int]] = []
        """Of the open collections: nodes so far, and levels."""
        self.errors: list[ManifestError] = []
        """What is wrong and does not keep the rest from being read."""

    def build(self, events: Iterator[Event]) -> Node:
        for event in events:
            node = self._node(event)
            if node is not None and not self._open:
                return node
        raise self._error("the document has no end", self._lines_before)

    def _node(self, event: Event) -> Node | None:
        """The node that this event completes, after it went into the collection around it."""
        line = self._lines_before + event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, SequenceStartEvent | MappingStartEvent):
            self._begin(event, line)
            return None
        if isinstance(event, SequenceEndEvent | MappingEndEvent):
            node, anchor = self._open.pop()
            self._keys.pop()
            self._merged.pop()
            return self._place(node, anchor, *self._sizes.pop())
        if isinstance(event, AliasEvent):
            known = self._anchors.get(event.anchor or "")
            if known is None:
                raise self._error(f"*{event.anchor} refers to itself or to nothing", line)
            self._copies += known.size
            if self._copies > COPIES_LIMIT:
                raise self._error(f"aliases make more than {COPIES_LIMIT} copies: write them out", line)
            if len(self._open) + known.height > DEPTH_LIMIT:
                raise self._error(f"nested deeper than {DEPTH_LIMIT} levels", line)
            return self._place(known.node, None, known.size, known.height)
        if isinstance(event, ScalarEvent):
            tag = event.tag if event.tag and event.tag != "!" else ""
            self._check_tag(tag, line)
            resolved = tag or self._resolve(yaml.ScalarNode, event.value, event.implicit)
            return self._place(Scalar(event.value, resolved, line), event.anchor)
        raise self._error("the document ends in the middle", line)

    def _begin(self, event: SequenceStartEvent | MappingStartEvent, line: int) -> None:
        if len(self._open) >= DEPTH_LIMIT:
            raise self._error(f"nested deeper than {DEPTH_LIMIT} levels", line)
        self._check_tag(event.tag, line)
        node = Sequence(line) if isinstance(event, SequenceStartEvent) else Mapping(line)
        self._open.append((node, event.anchor))
        self._keys.append(None)
        self._merged.append(set())
        self._sizes.append((1, 1))

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag and tag not in TAGS:
            key = self._keys[-1] if self._keys else None
            problem = f"the tag {tag} is not understood: write the value itself"
            self.errors.append(self._error(problem, line, key.text if key else ""))

    def _place(self, node: Node, anchor: str | None, size: int = 1, height: int = 0) -> Node:
        """Put a complete node into the collection around it. `size`: nodes in it, `height`: levels of collections."""
        # Registered when complete: an alias inside its own anchor finds nothing, so no tree is cyclic.
        if anchor is not None:
            self._anchors[anchor] = _Anchored(node, size, height)
        if self._open:
            around, levels = self._sizes[-1]
            self._sizes[-1] = around + size, max(levels, height + 1)
            parent = self._open[-1][0]
            if isinstance(parent, Sequence):
                parent.items.append(node)
            else:
                self._into_mapping(parent, node)
        return node

    def _into_mapping(self, parent: Mapping, node: Node) -> None:
        key = self._keys[-1]
        if key is not None:
            if key.tag == MERGE_TAG:
                self._merge(parent, node, key.line)
            else:
                parent.entries[key.text] = node
                parent.lines[key.text] = key.line
            self._keys[-1] = None
        elif not isinstance(node, Scalar):
            problem = "a key is a list or a mapping; it must be text"
            if isinstance(node, Mapping):  # what `{{ .Values.name }}` is to YAML
                problem += f"; {TEMPLATE}"
            raise self._error(problem, node.line)
        else:
            if node.text in self._merged[-1] and node.tag != MERGE_TAG:
                self._merged[-1].remove(node.text)
            elif node.text in parent.entries:
                self.errors.append(self._error("the key is given twice", node.line, node.text))
            self._keys[-1] = node

    def _merge(self, parent: Mapping, node: Node, line: int) -> None:
        """Take in the keys of one mapping, or of several, the first of which counts."""
        merged = self._merged[-1]
        for each in node.items if isinstance(node, Sequence) else [node]:
            if not isinstance(each, Mapping):
                self.errors.append(self._error("it merges what is no mapping", line, "<<"))
                return
            for name, value in each.entries.items():
                if name in merged:
                    continue
                if name in parent.entries:
                    # Parsers do not agree on which of the two counts.
                    problem = (
                        f"it stands above a merge (<<) that has it too, in line {line}: write the merge first"
                    )
                    self.errors.append(self._error(problem, parent.lines[name], name))
                else:
                    parent.entries[name], parent.lines[name] = value, each.lines[name]
                    merged.add(name)

    def _error(self, problem: str, line: int, key: str = "") -> ManifestError:
        return ManifestError(problem, file=self._file, line=line, document=self._document, field=key)
