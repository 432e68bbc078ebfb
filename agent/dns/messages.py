"""DNS messages of pods: what a query asks, and answers to it that are made here. The only place in a worker that knows
dnspython, and loaded with the first pod whose DNS is captured.

Sans-IO: bytes in, bytes out. Queries are read by dnspython, which refuses what is malformed, but for the plain ones
that resolvers send most (`question`); answers are few kinds of records below the name that was asked for, and are put
together here in a hundredth of the time. Flags, EDNS and lifetimes are ztunnel's (docs/WIRE.md#dns).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype

from agent.dns import records
from agent.dns.question import HEADER, KINDS, Question, plain
from agent.dns.records import MalformedMessage
from agent.model.address import IP

TTL_S = 30
"""Of everything that the mesh says."""
LEAST_BYTES, MOST_BYTES = 512, 1232
"""What an answer over UDP may have: without EDNS, and with it, as its fragments would not reach the pod."""
MOST_TCP_BYTES = 65535
BADVERS = 16
_RECORD = struct.Struct(">HHHIH")
_OPT = struct.Struct(">xHHBBHH")
_IN, _CNAME = 1, 5
_QR, _AA, _TC, _RD, _RA = 0x80, 0x04, 0x02, 0x01, 0x80
_POINTER = 0xC000
_DO = 0x8000
_TRANSFERS = frozenset({dns.rdatatype.AXFR, dns.rdatatype.IXFR})


class NotAQuery(ValueError):
    """There is nothing to look up; `answer` says so to whoever asked."""

    def __init__(self, text: str, answer: bytes) -> None:
        super().__init__(text)
        self.answer = answer


def read(query: bytes) -> Question:
    """What is asked. Raises NotAQuery with the answer to that, MalformedMessage where none can be given."""
    if len(query) < records.HEADER_BYTES:
        raise MalformedMessage(f"{len(query)} bytes have no header")
    if records.is_response(query):
        raise NotAQuery("an answer was sent as a query", records.refusal(query, records.FORMERR))
    if records.opcode(query) != 0:
        raise NotAQuery("not a query but something else", records.refusal(query, records.NOTIMP))
    return plain(query) or any_question(query)


def any_question(query: bytes) -> Question:
    """As `read`, of a message that has the flags of a query."""
    try:
        message = dns.message.from_wire(query)
    except (dns.exception.DNSException, ValueError, struct.error) as error:
        unreadable = records.refusal(query, records.FORMERR)
        raise NotAQuery(f"unreadable: {type(error).__name__}", unreadable) from error
    if len(message.question) != 1 or query[4:6] != b"\0\1":
        raise NotAQuery("not one question", records.refusal(query, records.FORMERR))
    (asked,) = message.question
    kind = dns.rdatatype.to_text(asked.rdtype)
    question = Question(
        message.id,
        asked.name.to_text(omit_final_dot=True).lower(),
        "UNKNOWN" if kind.startswith("TYPE") else kind,
        KINDS.get(asked.rdtype, ("", 0))[1] if asked.rdclass == dns.rdataclass.IN else 0,
        _on_the_wire(asked.name) + struct.pack(">HH", asked.rdtype, asked.rdclass),
        bool(message.flags & dns.flags.RD),
        int(message.payload) if message.edns >= 0 else None,
        bool(message.ednsflags & dns.flags.DO),
    )
    if message.edns > 0:
        raise NotAQuery("a version of EDNS that is not known", failure(question, BADVERS))
    if asked.rdtype in _TRANSFERS:
        # A relay of single messages would pass on the first of them, as if the zone ended there.
        raise NotAQuery("a zone is asked for, which takes many messages", failure(question, records.NOTIMP))
    return question


class UnusableName(ValueError):
    """No query can ask for it."""


def query(name: str, version: int) -> bytes:
    """A query of number 0 for the addresses of a name, which is taken as it is. Raises UnusableName."""
    try:
        asked = dns.name.from_text(name)
        wire = _on_the_wire(asked)
    except (dns.exception.DNSException, ValueError) as error:
        raise UnusableName(str(error)) from error
    kind = dns.rdatatype.A if version == 4 else dns.rdatatype.AAAA
    return HEADER.pack(0, _RD, 0, 1, 0, 0, 0) + wire + struct.pack(">HH", kind, _IN)


def answer(question: Question, addresses: Sequence[IP], alias: str = "", *, over_tcp: bool) -> bytes:
    """The mesh's answer. `alias`: the name that they are under. Over UDP it has the size that the client takes, and
    says by TC where that is not all."""
    owner, rows = records.HEADER_BYTES, []
    if alias:
        target = _on_the_wire(dns.name.from_text(alias))
        rows.append(_RECORD.pack(_POINTER | owner, _CNAME, _IN, TTL_S, len(target)) + target)
        owner += len(question.wire) + _RECORD.size
    kind, ip_bytes = (dns.rdatatype.A, 4) if question.version == 4 else (dns.rdatatype.AAAA, 16)
    head = _RECORD.pack(_POINTER | owner, kind, _IN, TTL_S, ip_bytes)
    most = MOST_TCP_BYTES if over_tcp else min(max(LEAST_BYTES, question.payload or 0), MOST_BYTES)
    # Those that fit: 33 bytes are the header and what EDNS takes, rounded up.
    room = max(0, most - 33 - len(question.wire) - sum(map(len, rows))) // (len(head) + ip_bytes)
    rows += [head + ip.packed for ip in addresses[:room]]
    return _assembled(question, rows, flags=_AA | (_TC if room < len(addresses) else 0))


def failure(question: Question, code: int) -> bytes:
    """That there is no answer. Codes above 15 are those of EDNS."""
    return _assembled(question, (), code=code)


def _on_the_wire(name: dns.name.Name) -> bytes:
    raw = name.to_wire()
    assert raw is not None, "without a file to write to, the bytes are the answer"
    return raw


def _assembled(question: Question, rows: Sequence[bytes], *, flags: int = 0, code: int = 0) -> bytes:
    has_edns = question.payload is not None
    first = _QR | flags | (_RD if question.is_recursion_desired else 0)
    header = HEADER.pack(question.number, first, _RA | (code & 15), 1, len(rows), 0, has_edns)
    parts = [header, question.wire, *rows]
    if has_edns:
        payload = max(LEAST_BYTES, question.payload or 0)
        parts.append(_OPT.pack(records.OPT, payload, code >> 4, 0, _DO if question.wants_dnssec else 0, 0))
    return b"".join(parts)
