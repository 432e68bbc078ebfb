"""Names are looked up at a real name server, which answers, does not know, or says nothing."""

from __future__ import annotations

import asyncio

import dns.asyncresolver
import pytest

from agent.dns import resolver
from agent.dns.name_servers import said_in
from agent.dns.resolver import LEAST_TTL_S, MOST_ADDRESSES, MOST_TTL_S, Found, LookupFailed, look_up
from agent.model.address import parse_ip
from tests.support.name_server import NameServer, Zone

DB: Zone = {
    ("db.example.", "A"): (30, ["192.0.2.7", "192.0.2.8"]),
    ("db.example.", "AAAA"): (20, ["2001:db8::7"]),
    ("four.example.", "A"): (0, ["192.0.2.4"]),
    ("text.example.", "TXT"): (30, ['"nothing else"']),
    ("long.example.", "A"): (86400, ["192.0.2.9"]),
    ("blocked.example.", "A"): (30, ["0.0.0.0", "127.0.0.1"]),
    ("blocked.example.", "AAAA"): (30, ["::1", "ff02::1", "fe80::1"]),
    ("partly.example.", "A"): (30, ["127.0.0.1", "192.0.2.7"]),
}


def asked(server: NameServer, host: str) -> Found:
    return asyncio.run(look_up(host, server.resolver()))


def test_both_families_and_the_shorter_time() -> None:
    with NameServer(DB) as server:
        found = asked(server, "db.example")
        assert set(found.addresses) == set(map(parse_ip, ("192.0.2.7", "192.0.2.8", "2001:db8::7")))
        assert found.ttl_s == 20
        assert {name for name, _ in server.asked} == {"db.example."}, "as it stands, in no search domain"


def test_a_time_of_nothing_is_no_storm_and_one_of_a_day_is_not_believed() -> None:
    with NameServer(DB) as server:
        assert asked(server, "four.example") == Found((parse_ip("192.0.2.4"),), LEAST_TTL_S)
        assert asked(server, "long.example").ttl_s == MOST_TTL_S


@pytest.mark.parametrize(
    ("host", "says"),
    [("no.example", "no.example. does not exist"), ("text.example", "text.example has no address")],
)
def test_what_a_server_knows_not_to_be_is_final(host: str, says: str) -> None:
    with NameServer(DB) as server, pytest.raises(LookupFailed, match=says) as caught:
        asked(server, host)
    assert caught.value.is_final


def test_one_that_fails_or_says_nothing_is_named_and_not_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LIFETIME_S", 0.5)
    with NameServer(DB, rcode="SERVFAIL") as server:
        with pytest.raises(LookupFailed, match=r"looking up db\.example\. at .*127\.0\.0\.1") as caught:
            asked(server, "db.example")
        assert not caught.value.is_final
        server.is_silent = True
        with pytest.raises(LookupFailed, match="did not answer in time") as caught:
            asked(server, "db.example")
        assert not caught.value.is_final


@pytest.mark.parametrize("host", ["", "a..b", "x" * 64 + ".example", "." * 300])
def test_what_is_no_name_is_refused_in_words(host: str) -> None:
    with NameServer(DB) as server, pytest.raises(LookupFailed):
        asked(server, host)


def test_where_nobody_else_can_be_nobody_is_dialled() -> None:
    """What filters names says 0.0.0.0; who rebinds one says loopback, which is the agent's."""
    with NameServer(DB) as server:
        with pytest.raises(
            LookupFailed, match=r"blocked\.example stands for 0\.0\.0\.0, 127\.0\.0\.1"
        ) as caught:
            asked(server, "blocked.example")
        assert caught.value.is_final
        assert asked(server, "partly.example").addresses == (parse_ip("192.0.2.7"),)


def test_in_whatever_order_they_are_named_it_is_one_answer() -> None:
    found = []
    for addresses in (["192.0.2.8", "192.0.2.7", "192.0.2.8"], ["192.0.2.7", "192.0.2.8"]):
        with NameServer({("db.example.", "A"): (30, addresses)}) as server:
            found.append(asked(server, "db.example"))
    assert found[0] == found[1] and len(found[0].addresses) == 2


def test_of_too_many_some_are_taken_and_always_the_same() -> None:
    many = [f"192.0.2.{number}" for number in range(1, 201)]
    zone: Zone = {("many.example.", "A"): (30, many), ("many.example.", "AAAA"): (30, ["2001:db8::7"])}
    with NameServer(zone) as server:
        first = asked(server, "many.example")
        server.zone["many.example.", "A"] = 30, many[::-1]
        assert asked(server, "many.example") == first
    assert len(first.addresses) == MOST_ADDRESSES + 1 and parse_ip("2001:db8::7") in first.addresses
    assert first.left_out == 200 - MOST_ADDRESSES


def test_the_nodes_name_servers_are_asked_and_lines_that_are_none_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As libc does, and SOCKS5 here."""
    with NameServer(DB) as server:
        make = dns.asyncresolver.Resolver.reset

        def reset(self: dns.asyncresolver.Resolver) -> None:
            make(self)
            self.port = server.port

        monkeypatch.setattr(dns.asyncresolver.Resolver, "reset", reset)
        lines = "nameserver dns.example\nnameserver 127.0.0.1\n"
        found = asyncio.run(look_up("db.example", servers=lambda: said_in(lines)))
    assert len(found.addresses) == 3


def test_where_there_is_no_name_server_it_is_said() -> None:
    with pytest.raises(LookupFailed, match=r"resolv\.conf of this node names no server") as caught:
        asyncio.run(look_up("db.example", servers=lambda: ()))
    assert not caught.value.is_final
