"""What a forwarder reads of messages and changes in them, and what it keeps: against dnspython's own messages."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from agent.dns import records
from agent.dns.cache import MOST_BYTES, Bounded, kept
from agent.dns.records import MalformedMessage

SOA = "ns.example. admin.example. 1 3600 600 86400 {}"


def response(
    *rows: str, authority: tuple[str, ...] = (), rcode: int = 0, flags: int = 0, payload: int | None = 1232
) -> bytes:
    query = dns.message.make_query("a.example.", "A", use_edns=False if payload is None else 0)
    made = dns.message.make_response(query)
    made.flags |= flags
    made.set_rcode(dns.rcode.Rcode(rcode))
    for section, texts in ((made.answer, rows), (made.authority, authority)):
        for text in texts:
            name, ttl, kind, data = text.split(" ", 3)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return made.to_wire(max_size=65535)


def life(message: bytes) -> int:
    return records.lifetime_s(message, records.records(message))


@pytest.mark.parametrize("payload", [None, 1232])
def test_an_answer_lives_as_long_as_its_first_record_to_die(payload: int | None) -> None:
    rows = ("a.example. 60 CNAME b.example.", "b.example. 20 A 10.0.0.1", "b.example. 20 A 10.0.0.2")
    assert life(response(*rows, payload=payload)) == 20
    assert life(response("a.example. 0 A 10.0.0.1")) == 0
    assert life(response("a.example. 2000000 A 10.0.0.1")) == records.MOST_LIFETIME_S


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_that_there_is_nothing_holds_as_long_as_the_zone_says(rcode: int) -> None:
    for ttl, minimum, expected in ((600, 30, 30), (10, 300, 10)):
        authority = (f"example. {ttl} SOA {SOA.format(minimum)}",)
        assert life(response(authority=authority, rcode=rcode)) == expected
    assert life(response(rcode=rcode)) == 0, "nobody says for how long"


def test_failures_and_what_is_cut_are_asked_for_anew() -> None:
    row = "a.example. 60 A 10.0.0.1"
    for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR):
        assert life(response(row, rcode=rcode)) == 0
    assert life(response(row, flags=dns.flags.TC)) == 0


def test_what_is_kept_grows_old_and_has_the_number_of_the_query() -> None:
    authority = ("example. 90 NS ns.example.",)
    message = response("a.example. 60 A 10.0.0.1", authority=authority)
    again = kept(message, list(records.records(message)), now_s=1000.0)
    assert again is not None
    assert (again.since_s, again.until_s) == (1000.0, 1060.0)
    later = dns.message.from_wire(again.numbered(b"\x12\x34", 1025.5))
    assert (later.id, later.answer[0].ttl, later.authority[0].ttl) == (0x1234, 35, 65)
    assert later.edns == 0 and later.payload == dns.message.from_wire(message).payload
    assert again.numbered(message[:2], 1000.2) == message


def test_large_answers_are_not_kept() -> None:
    message = response(*(f"a.example. 60 TXT {'x' * 200}{number}" for number in range(25)))
    assert len(message) > MOST_BYTES
    assert kept(message, list(records.records(message)), 0.0) is None


def test_a_full_cache_forgets_who_was_not_asked_for_longest() -> None:
    cache: Bounded[str, int] = Bounded(most=2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


def test_no_more_is_asked_for_than_fits() -> None:
    query = dns.message.make_query("a.example.", "A", use_edns=0, payload=4096, want_dnssec=True)
    fitted = dns.message.from_wire(records.fitted(query.to_wire(), 1232))
    assert (fitted.payload, fitted.ednsflags, fitted.id) == (1232, query.ednsflags, query.id)
    small = dns.message.make_query("a.example.", "A", use_edns=0, payload=600).to_wire()
    assert records.fitted(small, 1232) == small
    without = dns.message.make_query("a.example.", "A", use_edns=False).to_wire()
    assert records.fitted(without, 1232) == without


def test_only_the_answer_to_the_query_is_taken_for_it() -> None:
    query = dns.message.make_query("A.example.", "A")
    wire, answer = query.to_wire(), dns.message.make_response(query)
    assert records.answers(answer.to_wire(), wire)
    lower = dns.message.make_response(dns.message.make_query("a.example.", "A", id=query.id))
    assert records.answers(lower.to_wire(), wire), "some servers change the case"
    for other in (
        dns.message.make_response(dns.message.make_query("b.example.", "A", id=query.id)),
        dns.message.make_response(dns.message.make_query("A.example.", "AAAA", id=query.id)),
        dns.message.make_response(dns.message.make_query("A.example.", "A", id=query.id ^ 1)),
        query,
    ):
        assert not records.answers(other.to_wire(), wire)
    headless = records.refusal(wire, records.FORMERR)
    assert records.answers(headless, wire)
    assert not records.answers(headless[:3] + b"\x00" + headless[4:], wire), "an answer without its question"
    assert not records.answers(b"", wire)


def test_what_is_cut_off_is_malformed() -> None:
    message = response("a.example. 60 A 10.0.0.1", authority=(f"example. 60 SOA {SOA.format(30)}",))
    assert len(list(records.records(message))) == 3
    for end in range(len(message)):
        with pytest.raises(MalformedMessage):
            list(records.records(message[:end]))
    with pytest.raises(MalformedMessage, match="label"):
        list(records.records(message[:12] + b"\x80" + message[13:]))
