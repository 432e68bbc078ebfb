"""Noise for the DNS of pods: whatever comes as a query or as an answer is answered, passed on or refused, in order."""

from __future__ import annotations

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st

from agent.dns import records
from agent.dns.cache import kept
from agent.dns.messages import MOST_BYTES, NotAQuery, answer, any_question, failure, read
from agent.dns.names import candidates, wildcards
from agent.dns.question import plain
from agent.dns.records import MalformedMessage
from agent.model.address import ip_from_bytes

ANY, USUAL = st.binary(min_size=1, max_size=63), st.from_regex(rb"[-_0-9A-Za-z]{1,63}", fullmatch=True)
LABELS = st.lists(ANY | USUAL, min_size=0, max_size=8).filter(
    lambda labels: sum(len(label) + 1 for label in labels) < 255
)
QUERIES = st.builds(
    lambda labels, kind, edns, payload, number: dns.message.make_query(
        dns.name.Name((*labels, b"")),
        dns.rdatatype.RdataType.make(kind),
        use_edns=0 if edns else False,
        payload=payload if edns else None,
        id=number,
    ).to_wire(),
    LABELS,
    st.sampled_from([1, 28, 15, 16, 65, 65280]),
    st.booleans(),
    st.integers(0, 65535),
    st.integers(0, 65535),
)


@st.composite
def damaged(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    message = bytearray(draw(messages))
    for _ in range(draw(st.integers(0, 4))):
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    return bytes(message[: draw(st.integers(0, len(message)))] if draw(st.booleans()) else message)


NOISE = st.binary(max_size=200) | damaged(QUERIES)
ADDRESSES = st.lists(st.binary(min_size=4, max_size=4).map(ip_from_bytes), max_size=300)


@given(damaged(QUERIES))
def test_what_is_read_without_dnspython_is_read_as_by_it(query: bytes) -> None:
    if len(query) < 12 or records.is_response(query) or records.opcode(query) != 0:
        return
    question = plain(query)
    assert question is None or question == any_question(query)


@given(NOISE)
def test_noise_is_a_query_or_told_that_it_is_none(data: bytes) -> None:
    try:
        question = read(data)
    except MalformedMessage:
        assert len(data) < 12
    except NotAQuery as error:
        assert error.answer[:2] == data[:2] and records.is_response(error.answer)
        dns.message.from_wire(error.answer)
    else:
        said = dns.message.from_wire(failure(question, records.SERVFAIL))
        assert said.id == question.number
        for candidate, _ in candidates(question.name, "apps", "cluster.local"):
            assert len(list(wildcards(candidate))) == candidate.count(".")


@given(QUERIES, ADDRESSES, st.booleans())
def test_every_answer_is_one_to_its_query(query: bytes, addresses: list[object], over_tcp: bool) -> None:
    question = read(query)
    if question.version != 4:
        return
    wire = answer(question, addresses, over_tcp=over_tcp)  # type: ignore[arg-type]
    assert over_tcp or len(wire) <= MOST_BYTES
    made = dns.message.from_wire(wire)
    assert dns.message.from_wire(query).is_response(made)
    found = [row for rrset in made.answer for row in rrset]
    if not records.is_truncated(wire):
        assert {row.address for row in found} == {str(ip) for ip in addresses}


@given(
    st.binary(max_size=300) | damaged(QUERIES.map(lambda query: query[:2] + b"\x81\x80" + query[4:])), QUERIES
)
def test_noise_as_an_answer_is_kept_only_where_it_can_be_read(data: bytes, query: bytes) -> None:
    try:
        is_answer = records.answers(data, query)
    except MalformedMessage:
        is_answer = False
    if is_answer:
        assert data[:2] == query[:2]
    try:
        found = list(records.records(data))
    except MalformedMessage:
        return
    again = kept(data, found, 0.0)
    if again is not None:
        assert again.numbered(b"ab", 1e6)[2:12] == data[2:12]
        assert len(again.numbered(b"ab", 1e6)) == len(data)


@given(damaged(QUERIES), st.integers(512, 4096))
def test_a_query_that_is_fitted_stays_the_same_but_for_that(query: bytes, most: int) -> None:
    try:
        fitted = records.fitted(query, most)
    except MalformedMessage:
        return
    assert len(fitted) == len(query)
    assert sum(a != b for a, b in zip(fitted, query, strict=True)) <= 2
