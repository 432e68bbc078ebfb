"""What a restart needs beside broken files: the texts that are served, and older forms of what is refused.

Kept in `manifests.json` of the state directory. An object that is kept while its newest form is refused is kept as the
text of its document, so that it is read again exactly as it was. A document that was left out, because a running mesh
went on without it, is remembered by what it is known by: any other refusal closes its targets after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.controlplane.read.admission import Files, Standing, admit
from agent.controlplane.read.fields import Place
from agent.controlplane.read.manifests import Manifest, parse
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Object
from agent.controlplane.read.refused import Outcome, Refused
from agent.controlplane.read.yaml_tree import split_documents

SAVED = "manifests.json"
VERSION = 2


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The text of one document, and where in its file it stands: lines and documents before it."""

    file: str
    text: str
    lines_before: int
    number: int


Excerpts = Mapping[tuple[str, Key], Excerpt]
"""By the file for which it is kept, and the object's key."""


@dataclass(frozen=True, slots=True)
class LastGood:
    """`texts`: file -> text; `excerpts` of what is kept of older texts; `left_out`: refusals that closed nothing."""

    texts: Mapping[str, str] = field(default_factory=dict)
    excerpts: Excerpts = field(default_factory=dict)
    left_out: frozenset[tuple[str, ...]] = frozenset()

    def follow(self, standing: Standing, texts: Mapping[str, str]) -> LastGood:
        """For a new standing; `self` knows the texts from which what it keeps was read."""
        excerpts = {}
        for name, objects in standing.kept.items():
            for made in objects:
                key = (name, made.meta.key)
                known = next((e for (_, k), e in self.excerpts.items() if k == made.meta.key), None)
                excerpts[key] = known or cut(made.meta.place, self.texts[made.meta.place.file])
        left_out = {r.identity for r in standing.refused if r.outcome is Outcome.LEFT_OUT}
        return LastGood(dict(texts), excerpts, frozenset(left_out))

    def standing(self) -> tuple[Standing, Files]:
        """What stood when this was saved, and what was read of the texts."""
        kept: dict[str, list[Object]] = {}
        for (name, key), excerpt in self.excerpts.items():
            read = parse(excerpt.file, excerpt.text, lines_before=excerpt.lines_before, number=excerpt.number)
            kept.setdefault(name, []).extend(o for o in read.objects if o.meta.key == key)
        refused = tuple(
            Refused(
                place=Place(identity[0], 0, 0),
                errors=(),
                kind=identity[1] if len(identity) == 2 else identity[0],
                key=(identity[0], identity[1], identity[2]) if len(identity) == 3 else None,
            )
            for identity in self.left_out
        )
        before = Standing({name: tuple(objects) for name, objects in kept.items()}, refused=refused)
        files: dict[str, Manifest] = {name: parse(name, text) for name, text in self.texts.items()}
        return admit(before, files, is_first=True), files

    def as_json(self) -> object:
        return {
            "version": VERSION,
            "files": dict(self.texts),
            "kept": [
                {
                    "for": name,
                    "key": list(key),
                    "file": excerpt.file,
                    "text": excerpt.text,
                    "lines_before": excerpt.lines_before,
                    "number": excerpt.number,
                }
                for (name, key), excerpt in self.excerpts.items()
            ],
            "left_out": [list(identity) for identity in sorted(self.left_out)],
        }


def cut(place: Place, text: str) -> Excerpt:
    """The part of a file's text in which something stands."""
    found = (0, text)
    for lines_before, part in split_documents(text):
        if lines_before < place.line:
            found = lines_before, part
    return Excerpt(place.file, found[1], found[0], place.document - 1)


def decode(value: object) -> LastGood | None:
    """From JSON. Raises ValueError and the like for what is none of ours."""
    if not isinstance(value, dict):
        raise ValueError("want files with their texts")
    if "version" not in value:
        return LastGood(_texts(value))  # as before documents were refused one by one
    if value["version"] != VERSION:
        raise ValueError(f"it is of version {value['version']}, this is {VERSION}")
    excerpts = {}
    for entry in value["kept"]:
        kind, namespace, name = map(str, entry["key"])
        excerpts[str(entry["for"]), (kind, namespace, name)] = Excerpt(
            str(entry["file"]), str(entry["text"]), int(entry["lines_before"]), int(entry["number"])
        )
    left_out = frozenset(tuple(map(str, identity)) for identity in value["left_out"])
    return LastGood(_texts(value["files"]), excerpts, left_out)


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("want files with their texts")
    return value
