"""A cursor over one document: typed reads of named fields, with errors that name the exact place.

`Field` couples a node of `yaml_tree` with its path (`spec.rules[0].from`), so that every reader of a kind gets
file, line, document and field in its errors for nothing. A null value is the same as an absent one, as in Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from agent.controlplane.read.yaml_tree import (
    BOOL_TAG,
    INT_TAG,
    NOT_TEXT,
    NULL_TAG,
    ManifestError,
    Mapping,
    Node,
    Scalar,
    Sequence,
)
from agent.model.address import IP, AddressError, is_nobodys, parse_ip

T = TypeVar("T")
LABEL = re.compile("[a-z0-9]([a-z0-9-]*[a-z0-9])?")
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
OCTAL = re.compile(r"[-+]?0[0-9]")
"""What YAML takes for octal numbers: 010 is eight."""
TRUE = frozenset({"y", "yes", "true", "on"})


def is_label(text: str) -> bool:
    """Whether it is a DNS label, as names of namespaces are."""
    return len(text) <= 63 and LABEL.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether it is labels with dots between them, as other names are."""
    return len(text) <= 253 and all(LABEL.fullmatch(part) for part in text.split("."))


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object stands, for errors about it: file, line, document (from 1)."""

    file: str
    line: int
    document: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" (document {self.document})" if self.document else "")

    def error(self, problem: str, field: str = "") -> ManifestError:
        return ManifestError(problem, file=self.file, line=self.line, document=self.document, field=field)


@dataclass(slots=True)
class Field:
    """A node of a document, in the line of its key; None (and the parent's line) where nothing is said.

    Not a frozen value, and its path is made up when an error asks for it: there are dozens for every object.
    """

    node: Node | None
    document: Place
    line: int
    parent: Field | None = None
    key: str = ""
    """`.name` or `[3]`."""

    @classmethod
    def of_document(cls, node: Node | None, place: Place) -> Field:
        """The root of a document, or of a text inside of one."""
        return cls(node, place, place.line)

    @property
    def present(self) -> bool:
        return self.node is not None

    @property
    def path(self) -> str:
        """From the document's root, e.g. `spec.rules[0].from`."""
        above = self.parent.path if self.parent is not None else ""
        return above + self.key if above else self.key.removeprefix(".")

    @property
    def place(self) -> Place:
        return Place(self.document.file, self.line, self.document.document)

    def error(self, problem: str) -> ManifestError:
        return self.place.error(problem, self.path)

    def get(self, key: str) -> Field:
        """The field of that name, present or not."""
        if self.node is None:
            return Field(None, self.document, self.line, self, "." + key)
        mapping = self._mapping()
        node = mapping.entries.get(key)
        if isinstance(node, Scalar) and node.tag == NULL_TAG:
            node = None
        return Field(node, self.document, mapping.lines.get(key, self.line), self, "." + key)

    def at(self, path: str) -> Field:
        """The field at a dotted path."""
        result = self
        for key in path.split("."):
            result = result.get(key)
        return result

    def each(self) -> Iterator[Field]:
        """The elements of a list; none if absent."""
        if self.node is None:
            return
        if not isinstance(self.node, Sequence):
            raise self.error("it must be a list")
        for index, item in enumerate(self.node.items):
            is_null = isinstance(item, Scalar) and item.tag == NULL_TAG
            yield Field(None if is_null else item, self.document, item.line, self, f"[{index}]")

    def names(self) -> Collection[str]:
        """The keys of a mapping; none if absent."""
        return self._mapping().entries.keys() if self.present else ()

    def text(self, default: str | None = None) -> str:
        """A string; a number or a boolean is refused, as the API server does."""
        if self.node is None:
            return self._absent(default)
        if not isinstance(self.node, Scalar):
            raise self.error("it must be text")
        if self.node.tag in NOT_TEXT:
            raise self.error(f'it must be text: put it in quotes ("{self.node.text}")')
        return self.node.text

    def name(self, default: str | None = None) -> str:
        """The name of an object: lower case letters, digits, dashes and dots (it becomes part of keys)."""
        text = self.text(default)
        if not is_name(text):
            raise self.error(f"{text!r} is not a name: lower case letters, digits, '-' and '.', at most 253")
        return text

    def label(self, default: str | None = None) -> str:
        """The name of a namespace or a Service: as a name, without dots."""
        text = self.text(default)
        if not is_label(text):
            raise self.error(f"{text!r} is not a name here: lower case letters, digits and '-', at most 63")
        return text

    def one_of(self, *words: str, default: str | None = None) -> str:
        text = self.text(default)
        if text not in words and text != default:
            raise self.error(f"{text!r} is not one of {', '.join(words)}")
        return text

    def integer(self, low: int, high: int, default: int | None = None) -> int:
        if self.node is None:
            return self._absent(default)
        if isinstance(self.node, Scalar) and self.node.tag == INT_TAG and DECIMAL.fullmatch(self.node.text):
            value = int(self.node.text)
            if low <= value <= high:
                return value
        is_octal = isinstance(self.node, Scalar) and self.node.tag == INT_TAG and OCTAL.match(self.node.text)
        hint = ", without a zero before it" if is_octal else ""
        raise self.error(f"it must be a whole number from {low} to {high}{hint}")

    @property
    def is_integer(self) -> bool:
        return isinstance(self.node, Scalar) and self.node.tag == INT_TAG

    @property
    def is_text(self) -> bool:
        return isinstance(self.node, Scalar) and self.node.tag not in NOT_TEXT

    def boolean(self, default: bool = False) -> bool:
        if self.node is None:
            return default
        if not isinstance(self.node, Scalar) or self.node.tag != BOOL_TAG:
            raise self.error("it must be true or false")
        return self.node.text.lower() in TRUE

    def ip(self) -> IP:
        """An address that one pod or Service can have."""
        try:
            ip = parse_ip(self.text())
        except AddressError as error:
            raise self.error(str(error)) from error
        if is_nobodys(ip):
            raise self.error(f"{ip} is nobody's address on a network: want the one that others dial")
        return ip

    def texts(self) -> tuple[str, ...]:
        return tuple(item.text() for item in self.each())

    def text_map(self) -> dict[str, str]:
        """A mapping of strings: labels, annotations, selectors."""
        return {key: self.get(key).text("") for key in self.names()}

    def _mapping(self) -> Mapping:
        if not isinstance(self.node, Mapping):
            raise self.error("it must be a mapping")
        return self.node

    def _absent(self, default: T | None) -> T:
        if default is None:
            raise self.error("it is missing")
        return default
