"""What a query asks, and the plain queries that make up nearly all: one usual name, A or AAAA, with EDNS or without.

Of those nothing can be malformed, and they are read here in a tenth of the time: a pod may send thousands a second.
Whatever has more to it is for dnspython (`messages`). Sans-IO (RFC 1035 section 4.1, RFC 6891 section 6.1).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

HEADER = struct.Struct(">HBBHHHH")
_ASKED = struct.Struct(">HH")
_OPT = struct.Struct(">BHHIH")
_DO = 0x8000
_RD = 0x01
_LABELS = re.compile(rb"[-_0-9A-Za-z]{1,63}")
_MOST_NAME_BYTES = 255
KINDS = {1: ("A", 4), 28: ("AAAA", 6)}
"""The record types of addresses, and their families."""


@dataclass(frozen=True, slots=True)
class Question:
    """`name`: lower case, no dot at its end. `version` of the addresses that are asked for; 0: something else is.

    `kind`: the record type's mnemonic, "UNKNOWN" where it has none. `wire`: the question as it is repeated in answers.
    `payload`: what the client takes over UDP, as it says by EDNS; None: it does not speak that.
    """

    number: int
    name: str
    kind: str
    version: int
    wire: bytes
    is_recursion_desired: bool
    payload: int | None = None
    wants_dnssec: bool = False


def plain(query: bytes) -> Question | None:
    """Of a message that has the flags of a query; None: it is not one of these, which says nothing against it."""
    number, flags, _, *counts, additional = HEADER.unpack_from(query)
    if counts != [1, 0, 0] or additional > 1:
        return None
    at, labels = HEADER.size, []
    while at < len(query) and (length := query[at]):
        label = query[at + 1 : at + 1 + length]
        if len(label) != length or not _LABELS.fullmatch(label):
            return None
        labels.append(label)
        at += 1 + length
    end = at + 1 + _ASKED.size
    if not labels or at + 1 - HEADER.size > _MOST_NAME_BYTES or end > len(query):
        return None
    asked, of_class = _ASKED.unpack_from(query, at + 1)
    if asked not in KINDS or of_class != 1:
        return None
    payload, wants_dnssec = None, False
    if additional:
        if len(query) != end + _OPT.size:
            return None
        root, record, payload, said, option_bytes = _OPT.unpack_from(query, end)
        # Of what stands where others have a lifetime, all but DO is something else than version 0 of EDNS.
        if root or record != 41 or said & ~_DO or option_bytes:
            return None
        wants_dnssec = bool(said & _DO)
    elif len(query) != end:
        return None
    kind, version = KINDS[asked]
    name = b".".join(labels).decode("ascii").lower()
    return Question(
        number, name, kind, version, query[HEADER.size : end], bool(flags & _RD), payload, wants_dnssec
    )
