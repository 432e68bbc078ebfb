"""One file of manifests, read document by document: whoever drives it may do something else in between. Pure.

A document whose text was in the file before is not read again; only the place of its object is another one. Documents
are told apart by their marks, which YAML allows nowhere else; a file with line ends that are not counted here is read
in one piece.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.controlplane.read.fields import Place
from agent.controlplane.read.manifests import Manifest, parse, read_part
from agent.controlplane.read.objects import Object
from agent.controlplane.read.yaml_tree import is_json, split_documents
from agent.model.steps import Steps

WHOLE_BELOW = 32 * 2**10
"""Characters of a file that is read in one piece."""
OTHER_LINE_ENDS = re.compile("\r(?!\n)|[\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Piece:
    """What a part of a file came to: where it stood, and how many documents are in it."""

    lines_before: int
    number: int
    documents: int
    objects: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Pieces:
    """A file's manifest, and its parts by a digest of their text, those without anything to be said about them."""

    manifest: Manifest
    by_digest: Mapping[bytes, Piece] = field(default_factory=dict)


def read_in_pieces(file: str, text: str, known: Mapping[bytes, Piece]) -> Steps[Pieces]:
    """`known`: the pieces of the file as it was before."""
    if len(text) < WHOLE_BELOW or OTHER_LINE_ENDS.search(text):
        return Pieces(parse(file, text))
    json = is_json(text)
    made: list[Manifest] = []
    pieces: dict[bytes, Piece] = {}
    number = 0
    for lines_before, part in split_documents(text):
        digest = hashlib.blake2b(part.encode(), digest_size=16).digest()
        piece = known.get(digest)
        if piece is None:
            read, documents = read_part(file, part, lines_before, number, json)
            piece = Piece(lines_before, number, documents, read.objects)
            made.append(read)
            if not read.refused and not read.remarks:
                pieces[digest] = piece
        else:
            piece = _moved(piece, lines_before, number)
            made.append(Manifest(piece.objects))
            pieces[digest] = piece
        number += piece.documents
        yield
    return Pieces(_together(made), pieces)


def _together(manifests: list[Manifest]) -> Manifest:
    return Manifest(
        tuple(o for m in manifests for o in m.objects),
        tuple(r for m in manifests for r in m.refused),
        tuple(r for m in manifests for r in m.remarks),
    )


def _moved(piece: Piece, lines_before: int, number: int) -> Piece:
    lines, documents = lines_before - piece.lines_before, number - piece.number
    if not lines and not documents:
        return piece
    objects = tuple(_at(o, o.meta.place, lines, documents) for o in piece.objects)
    return Piece(lines_before, number, piece.documents, objects)


def _at(made: Object, place: Place, lines: int, documents: int) -> Object:
    there = Place(place.file, place.line + lines, place.document + documents)
    return dataclasses.replace(made, meta=dataclasses.replace(made.meta, place=there))
