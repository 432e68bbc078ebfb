"""What is asked, and the answers that are made here, as dnspython reads them."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest

from agent.dns import records
from agent.dns.messages import MOST_BYTES, TTL_S, NotAQuery, answer, any_question, failure, read
from agent.dns.question import plain
from agent.dns.records import MalformedMessage
from agent.model.address import parse_ip

ONE = [parse_ip("10.0.0.1")]
MANY = [parse_ip(f"10.0.{number}.1") for number in range(256)]


def asked(name: str = "Web.Example.", kind: str = "A", **options: object) -> dns.message.Message:
    return dns.message.make_query(name, kind, **options)


def test_a_query_is_read() -> None:
    question = read(asked().to_wire())
    assert (question.name, question.kind, question.version) == ("web.example", "A", 4)
    assert read(asked(kind="AAAA").to_wire()).version == 6
    assert (read(asked(kind="MX").to_wire()).kind, read(asked(kind="MX").to_wire()).version) == ("MX", 0)
    assert read(asked(kind="TYPE65280").to_wire()).kind == "UNKNOWN"
    assert read(asked(rdclass="CH").to_wire()).version == 0, "addresses are of the Internet"


@pytest.mark.parametrize("kind", ["A", "AAAA"])
@pytest.mark.parametrize(
    "options", [{"use_edns": False}, {"use_edns": 0}, {"use_edns": 0, "want_dnssec": True, "payload": 4096}]
)
def test_what_resolvers_send_most_is_read_at_once(kind: str, options: dict[str, object]) -> None:
    query = asked("_web-1.Example.", kind, **options).to_wire()
    assert plain(query) == any_question(query)
    assert plain(query + b"\0") is None, "what is behind it is for dnspython to refuse"
    with pytest.raises(NotAQuery):
        read(query + b"\0")


def test_what_has_more_to_it_is_left_to_dnspython() -> None:
    cookie = dns.edns.GenericOption(10, b"12345678")
    others = [asked(kind="MX"), asked(rdclass="CH"), asked("a\\.b.example."), asked(use_edns=1), asked(".")]
    for query in (*others, asked(use_edns=0, options=[cookie])):
        assert plain(query.to_wire()) is None


@pytest.mark.parametrize("over_tcp", [False, True])
@pytest.mark.parametrize("use_edns", [False, True])
def test_an_answer_is_one_to_the_query(use_edns: bool, over_tcp: bool) -> None:
    query = asked(use_edns=0 if use_edns else False, payload=4096, want_dnssec=use_edns)
    made = dns.message.from_wire(answer(read(query.to_wire()), ONE, over_tcp=over_tcp))
    assert query.is_response(made)
    assert made.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    assert [(str(each.name), each.ttl, each[0].to_text()) for each in made.answer] == [
        ("Web.Example.", TTL_S, "10.0.0.1")
    ]
    assert (made.edns, made.payload) == ((0, 4096) if use_edns else (-1, 0))
    assert bool(made.ednsflags & dns.flags.DO) == use_edns


def test_recursion_is_desired_as_it_was() -> None:
    query = asked()
    query.flags = 0
    made = dns.message.from_wire(answer(read(query.to_wire()), ONE, over_tcp=False))
    assert not made.flags & dns.flags.RD


def test_a_search_domain_is_left_by_an_alias() -> None:
    query = asked("web.example.apps.svc.cluster.local.", "AAAA")
    ip = parse_ip("fd00::1")
    made = dns.message.from_wire(answer(read(query.to_wire()), [ip], "web.example", over_tcp=False))
    assert [(str(each.name), each[0].to_text()) for each in made.answer] == [
        ("web.example.apps.svc.cluster.local.", "web.example."),
        ("web.example.", "fd00::1"),
    ]


@pytest.mark.parametrize(
    "payload, most", [(None, 512), (100, 512), (600, 600), (MOST_BYTES, MOST_BYTES), (8000, MOST_BYTES)]
)
def test_what_does_not_fit_is_cut_and_said(payload: int | None, most: int) -> None:
    query = asked(use_edns=False) if payload is None else asked(use_edns=0, payload=payload)
    wire = answer(read(query.to_wire()), MANY, over_tcp=False)
    made = dns.message.from_wire(wire)
    assert made.flags & dns.flags.TC
    assert most - 64 < len(wire) <= most, "as many as fit"
    whole = dns.message.from_wire(answer(read(query.to_wire()), MANY, over_tcp=True))
    assert len(whole.answer[0]) == 256
    assert not whole.flags & dns.flags.TC


def test_more_than_tcp_takes_is_cut_as_well() -> None:
    wire = answer(read(asked(kind="AAAA").to_wire()), [parse_ip("fd00::1")] * 5000, over_tcp=True)
    assert len(wire) <= 65535
    assert records.is_truncated(wire)


@pytest.mark.parametrize("use_edns", [0, False])
def test_a_failure_is_one_to_the_query(use_edns: int) -> None:
    query = asked(use_edns=use_edns)
    made = dns.message.from_wire(failure(read(query.to_wire()), records.SERVFAIL))
    assert query.is_response(made)
    assert (made.rcode(), made.answer) == (dns.rcode.SERVFAIL, [])


def test_what_is_no_query_is_told_so() -> None:
    notify = asked()
    notify.set_opcode(dns.opcode.NOTIFY)
    response = dns.message.make_response(asked())
    two = asked()
    two.question.append(asked("other.example.").question[0])
    none = asked()
    none.question.clear()
    later = asked()
    later.use_edns(edns=1)
    wire = asked().to_wire()
    for data, code in (
        (notify.to_wire(), dns.rcode.NOTIMP),
        (response.to_wire(), dns.rcode.FORMERR),
        (two.to_wire(), dns.rcode.FORMERR),
        (none.to_wire(), dns.rcode.FORMERR),
        (later.to_wire(), dns.rcode.BADVERS),
        (asked("example.", "AXFR").to_wire(), dns.rcode.NOTIMP),
        (asked("example.", "IXFR").to_wire(), dns.rcode.NOTIMP),
        (wire[:-3], dns.rcode.FORMERR),
        (wire + b"more", dns.rcode.FORMERR),
    ):
        with pytest.raises(NotAQuery) as caught:
            read(data)
        said = dns.message.from_wire(caught.value.answer)
        assert (said.rcode(), said.id) == (code, int.from_bytes(data[:2], "big"))
        assert said.flags & dns.flags.QR
    with pytest.raises(MalformedMessage):
        read(wire[:11])
