"""One manifest file: text to objects, refused documents and remarks.

The kinds that make a mesh are those of `kinds`; others are left out with a remark that names file and kind. A `List`
is taken apart. A document that cannot be used is refused by itself and never takes its neighbours with it. Pure:
`directory` reads files, `admission` sets them side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from agent.controlplane.read import schema
from agent.controlplane.read.fields import Field, Place
from agent.controlplane.read.kinds import (
    CORE_KINDS,
    CORE_VERSION,
    KINDS,
    LIKE_LISTS,
    LISTS,
    MESH_CONFIG,
    OWN,
    OWN_GROUP,
    OWN_KINDS,
    REVISED_GROUPS,
    SECURITY,
    SECURITY_GROUP,
    Kind,
)
from agent.controlplane.read.left_out import is_guard, why_left_out
from agent.controlplane.read.objects import Node, Object, Pod
from agent.controlplane.read.refused import GUARDS, Refused, refuse, refuse_nameless
from agent.controlplane.read.remarks import EVERYBODY, Remark, Scope, Weight
from agent.controlplane.read.unknown_fields import INDEX, UnknownField, unknown_fields, valueless_fields
from agent.controlplane.read.yaml_tree import (
    STRING_TAG,
    Document,
    ManifestError,
    Mapping,
    Scalar,
    read_apart,
    read_documents,
)

REVISION_LABEL = "istio.io/rev"
REVISION = "default"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one file says."""

    objects: tuple[Object, ...] = ()
    refused: tuple[Refused, ...] = ()
    remarks: tuple[Remark, ...] = ()


def parse(file: str, text: str, stored: bool = False, *, lines_before: int = 0, number: int = 0) -> Manifest:
    """The objects of a file. `stored`: take every object as an API server keeps it, fill in nothing.

    `lines_before`, `number`: where in its file the text stands, if it is a part of one.
    """
    reading = _Reading(stored)
    for document in read_documents(file, text, lines_before, number):
        reading.take(file, document)
    return reading.manifest()


def read_part(file: str, text: str, lines_before: int, number: int, is_json: bool) -> tuple[Manifest, int]:
    """As `parse`, of a part of a file, with how many documents are in it, empty ones too."""
    reading, last = _Reading(False), number
    for document in read_apart(file, text, lines_before, number, is_json):
        last = document.number
        if document.root is not None or document.errors:
            reading.take(file, document)
    return reading.manifest(), last - number


class _Reading:
    """Takes documents in, one after the other."""

    def __init__(self, stored: bool) -> None:
        self._stored = stored
        self.objects: list[Object] = []
        self.refused: list[Refused] = []
        self.remarks: list[Remark] = []

    def manifest(self) -> Manifest:
        """What was taken in so far."""
        return Manifest(tuple(self.objects), tuple(self.refused), tuple(self.remarks))

    def take(self, file: str, document: Document) -> None:
        if document.root is None:
            place = Place(file, document.errors[0].line, document.number)
            self.refused.append(refuse_nameless(place, document.errors))
            return
        root = Field.of_document(document.root, Place(file, document.root.line, document.number))
        try:
            items = list(flatten(root))
        except ManifestError as error:
            self.refused.append(refuse_nameless(root.place, (error,), root))
            return
        if is_list(_text_of(root, "kind")):
            self.remarks.extend(
                _misspelt("List", EVERYBODY, each) for each in unknown_fields(root, schema.LIST)
            )
        errors = _by_line(items, document.errors)
        for item in items:
            try:
                self._take(item, [*errors.get(None, ()), *errors.get(item.line, ())])
            except ManifestError as error:
                self.refused.append(refuse_nameless(item.place, (error,), item))

    def _take(self, root: Field, errors: list[ManifestError]) -> None:
        """One object. Raises ManifestError if it does not say what it is."""
        kind, group, version = _identify(root)
        unsure = {error.field for error in errors}
        if unsure & {"kind", "apiVersion", "items"}:
            raise errors[0]
        found = self._reader(root, kind, group, version)
        if found is None:
            return
        unknown = list(unknown_fields(root, found.schema))
        if kind in GUARDS:
            errors += [*(u.error for u in unknown), *valueless_fields(root, found.schema)]
        try:
            if not unsure:  # also what cannot be used is read, so that all of its faults are told at once
                stored = self._stored or root.at("metadata.resourceVersion").present
                made = found.read(root, stored)
        except ManifestError as error:
            told = {e.field for e in errors}.union(*(each.told for each in unknown if kind in GUARDS))
            errors += [
                e for e in (error, *error.more) if INDEX.sub("", e.field) not in told and e.field not in told
            ]
            # What is left out here is told by what is in `errors` already.
        if errors:
            refusal = refuse(root, kind, tuple(errors), unsure)
            self.refused.append(refusal)
            about, scope = refusal.about, Scope(node=refusal.node) if refusal.node else EVERYBODY
        else:
            self._admit(made, group)
            about, scope = str(made.meta), _whose(made)
        if kind not in GUARDS:
            self.remarks.extend(_misspelt(about, scope, each) for each in unknown)

    def _admit(self, made: Object, group: str) -> None:
        revision = made.meta.labels.get(REVISION_LABEL, REVISION)
        if group in REVISED_GROUPS and revision != REVISION:
            self.remarks.append(
                Remark(
                    place=made.meta.place,
                    about=str(made.meta),
                    problem=f"it is for revision {revision!r} and was left out",
                    remedy=f"take the label {REVISION_LABEL} off if it is meant for this mesh",
                    weight=Weight.INEFFECTIVE,
                    scope=Scope(made.meta.namespace),
                )
            )
            return
        self.objects.append(made)

    def _reader(self, root: Field, kind: str, group: str, version: str) -> Kind | None:
        """What reads this kind; None, and the reason noted, for what cannot be read or does not make a mesh."""
        if not group and self._is_misnamed(root, kind, version):
            return None
        if kind == "ConfigMap" and not group and _metadata(root, "name") == "istio":
            return MESH_CONFIG
        found = KINDS.get((group, kind))
        if found and version in found.versions:
            return found
        api_version = root.get("apiVersion").text()
        if kind != "RequestAuthentication" and (guard := _guard_like(kind)):
            of = f"{OWN_GROUP}/{OWN[0]}" if guard in OWN_KINDS else f"{SECURITY_GROUP}/{SECURITY[0]}"
            problem = f"there is no kind {kind} in {api_version}; did you mean {guard} of {of}?"
            field = root.get("apiVersion" if kind == guard else "kind")
            self.refused.append(refuse(root, guard, (field.error(problem),)))
            return None
        if found is not None:
            problem = f"there is no kind {kind} in {api_version}; did you mean {kind} of {group}/{found.versions[0]}?"
            self.refused.append(refuse(root, kind, (root.get("apiVersion").error(problem),)))
            return None
        is_guarding = is_guard(group, kind)
        self.remarks.append(
            Remark(
                place=root.place,
                about="",
                problem=why_left_out(group, kind, api_version),
                weight=Weight.INEFFECTIVE if is_guarding else Weight.NOTE,
                scope=Scope(_metadata(root, "namespace")) if is_guarding else None,
            )
        )
        return None

    def _is_misnamed(self, root: Field, kind: str, version: str) -> bool:
        """Whether it is a core kind under a name or in a version that there is not; then it is refused."""
        meant = CORE_KINDS.get(kind.lower())
        if meant is None or (kind == meant and version == CORE_VERSION):
            return False
        if meant == "ConfigMap" and _metadata(root, "name") != "istio":
            return False
        field = root.get("kind" if kind != meant else "apiVersion")
        problem = f"there is no kind {kind} in {version}; did you mean {meant} of {CORE_VERSION}?"
        self.refused.append(refuse(root, meant, (field.error(problem),)))
        return True


def _guard_like(kind: str) -> str | None:
    """The security kind that was most likely meant by a name."""
    by_lower = {guard.lower(): guard for guard in GUARDS}
    close = get_close_matches(kind.lower(), list(by_lower), 1, 0.8)
    return by_lower[close[0]] if close else None


def _by_line(items: list[Field], errors: tuple[ManifestError, ...]) -> dict[int | None, list[ManifestError]]:
    """The errors of a document by the line of the item in which they stand; None: before all of them."""
    lines = sorted({item.line for item in items}) if errors else []
    found: dict[int | None, list[ManifestError]] = {}
    for error in errors:
        place = bisect_right(lines, error.line)
        found.setdefault(lines[place - 1] if place else None, []).append(error)
    return found


def flatten(root: Field) -> Iterator[Field]:
    """The objects of a document: itself, or the items of a list. Those of a raw `PodList` take their kind from it."""
    kind = root.get("kind").text()
    if not is_list(kind):
        if root.get("items").present and kind.lower().rstrip("s") in LIKE_LISTS:
            raise root.get("kind").error(
                f"there is no kind {kind}; did you mean {LIKE_LISTS[kind.lower().rstrip('s')]}?"
            )
        yield root
        return
    if not root.get("items").present:
        for unknown in unknown_fields(root, schema.LIST):
            raise unknown.error
        raise root.get("items").error("it is missing: a list without objects says so, items: []")
    for item in root.get("items").each():
        if kind in LISTS and isinstance(item.node, Mapping):
            said = {"kind": kind.removesuffix("List"), "apiVersion": root.get("apiVersion").text()}
            given = {name: Scalar(text, STRING_TAG, item.node.line) for name, text in said.items()}
            whole = Mapping(item.node.line, given | item.node.entries, item.node.lines)
            yield Field(whole, item.document, item.line, item.parent, item.key)
        elif isinstance(item.node, Mapping) and is_list(_text_of(item, "kind")):
            yield from flatten(item)
        else:
            yield item


def is_list(kind: str) -> bool:
    return kind == "List" or kind in LISTS


def _identify(root: Field) -> tuple[str, str, str]:
    """Kind, group and version. Raises ManifestError."""
    kind = root.get("kind").text()
    group, slash, version = root.get("apiVersion").text().partition("/")
    return (kind, group, version) if slash else (kind, "", group)


def _text_of(root: Field, name: str) -> str:
    """The text, or the empty one if it is none."""
    try:
        return root.get(name).text("")
    except ManifestError:
        return ""


def _metadata(root: Field, name: str) -> str:
    """The text, or the empty one if it is none."""
    try:
        return root.get("metadata").get(name).text("")
    except ManifestError:
        return ""


def _whose(made: Object) -> Scope:
    """The pods that a core object concerns."""
    node = made.node if isinstance(made, Pod) else made.meta.name if isinstance(made, Node) else ""
    return Scope(node=node) if node else Scope(made.meta.namespace) if made.meta.namespace else EVERYBODY


def _misspelt(about: str, scope: Scope, unknown: UnknownField) -> Remark:
    """What is like a field of the kind was meant as one, and does nothing; what is like none may just be new."""
    error = unknown.error
    return Remark(
        place=Place(error.file, error.line, error.document),
        about=about,
        field=error.field,
        problem=error.problem,
        weight=Weight.INEFFECTIVE if unknown.meant else Weight.NOTE,
        scope=scope if unknown.meant else None,
    )
