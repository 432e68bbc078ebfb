"""Where in a DNS message what stands that a forwarder reads or changes: lifetimes, the size that fits, what it answers.

Works on the bytes (RFC 1035 section 4, RFC 6891), so that everything else passes as it came. Decides nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from agent.model.address import IP, ip_from_bytes

HEADER_BYTES = 12
OPT, SOA = 41, 6
A, AAAA = 1, 28
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
_COUNTS = struct.Struct(">4H")
_RECORD = struct.Struct(">HHIH")
_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
MOST_LIFETIME_S = 86400


class MalformedMessage(ValueError):
    """The bytes are no DNS message."""


class Record(NamedTuple):
    """`at`: where its type is, behind its name. `section`: 1 answer, 2 authority, 3 additional."""

    kind: int
    at: int
    section: int
    ttl_s: int
    data_bytes: int

    @property
    def ttl_at(self) -> int:
        return self.at + 4

    @property
    def end(self) -> int:
        return self.at + _RECORD.size + self.data_bytes


def rcode(message: bytes) -> int:
    return message[3] & 15


def is_response(message: bytes) -> bool:
    return bool(message[2] & 0x80)


def is_truncated(message: bytes) -> bool:
    return bool(message[2] & 2)


def opcode(message: bytes) -> int:
    return (message[2] >> 3) & 15


def question_end(message: bytes) -> int:
    """Where the records begin. Raises MalformedMessage."""
    if len(message) < HEADER_BYTES:
        raise MalformedMessage(f"{len(message)} bytes have no header")
    at = HEADER_BYTES
    for _ in range(_U16.unpack_from(message, 4)[0]):
        at = _after_name(message, at) + 4
    if at > len(message):
        raise MalformedMessage("the question is cut off")
    return at


def records(message: bytes) -> Iterator[Record]:
    """All of them, in their order. Raises MalformedMessage."""
    at = question_end(message)
    _, *counts = _COUNTS.unpack_from(message, 4)
    for section, count in enumerate(counts, 1):
        for _ in range(count):
            at = _after_name(message, at)
            if at + _RECORD.size > len(message):
                raise MalformedMessage("a record is cut off")
            kind, _, ttl_s, data_bytes = _RECORD.unpack_from(message, at)
            record = Record(kind, at, section, ttl_s, data_bytes)
            at = record.end
            if at > len(message):
                raise MalformedMessage("the data of a record are cut off")
            yield record


def addresses(message: bytes, version: int) -> list[IP]:
    """Those of one family in an answer, whatever names they are under. Raises MalformedMessage."""
    kind, size = (A, 4) if version == 4 else (AAAA, 16)
    return [
        ip_from_bytes(message[record.end - size : record.end])
        for record in records(message)
        if record.section == 1 and record.kind == kind and record.data_bytes == size
    ]


def _after_name(message: bytes, at: int) -> int:
    """Behind a name; where a pointer ends it, that is not followed."""
    while at < len(message):
        length = message[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length > 63:
            raise MalformedMessage("a label of a kind that nobody uses")
        at += length + 1
    raise MalformedMessage("a name is cut off")


def lifetime_s(message: bytes, found: Iterable[Record]) -> int:
    """How long an answer may be given again; 0: not at all. Of one that says no (RFC 2308) its SOA counts."""
    if is_truncated(message) or rcode(message) not in (NOERROR, NXDOMAIN):
        return 0
    rows = [record for record in found if record.kind != OPT]
    if any(record.section == 1 for record in rows) and rcode(message) == NOERROR:
        return min(*(record.ttl_s for record in rows), MOST_LIFETIME_S)
    said = [
        min(record.ttl_s, int(_U32.unpack_from(message, record.end - 4)[0]))
        for record in rows
        if record.section == 2 and record.kind == SOA and record.data_bytes >= 20
    ]
    if not said:
        return 0
    return min(*said, *(record.ttl_s for record in rows), MOST_LIFETIME_S)


def aged(message: bytearray, ttls_at: Iterable[int], by_s: int) -> None:
    """Take so many seconds off the lifetimes at these places."""
    for at in ttls_at:
        _U32.pack_into(message, at, max(0, _U32.unpack_from(message, at)[0] - by_s))


def fitted(query: bytes, most_bytes: int) -> bytes:
    """The query with no larger answers asked for by EDNS than that. Raises MalformedMessage."""
    if len(query) >= HEADER_BYTES and query[6:12] == bytes(6):
        return query  # as most are: a question alone
    for record in records(query):
        if record.kind == OPT and _U16.unpack_from(query, record.at + 2)[0] > most_bytes:
            changed = bytearray(query)
            _U16.pack_into(changed, record.at + 2, most_bytes)
            return bytes(changed)
    return query


def answers(response: bytes, query: bytes) -> bool:
    """Whether a message is the answer to this very query: number, opcode and question are the same."""
    if len(response) < HEADER_BYTES or not is_response(response) or response[:2] != query[:2]:
        return False
    if opcode(response) != opcode(query):
        return False
    if response[4:6] == b"\0\0":
        # Who cannot read a query has no question to repeat.
        return rcode(response) in (FORMERR, NOTIMP, SERVFAIL, REFUSED)
    end = question_end(query)
    return response[4:6] == query[4:6] and response[12:end].lower() == query[12:end].lower()


def refusal(query: bytes, code: int) -> bytes:
    """A header alone that says no to a query that may be unreadable. It must have a header."""
    flags = 0x80 | (query[2] & 0x79)  # opcode and RD stay
    return query[:2] + bytes((flags, 0x80 | code)) + bytes(8)
