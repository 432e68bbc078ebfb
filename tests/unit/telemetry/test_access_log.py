"""The access-log line field by field, and what hostile input can do to it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome
from agent.model.service import Service
from agent.model.workload import Workload
from agent.telemetry.access_log import line, lost_line, opened_line, refused_line
from agent.telemetry.record import Opened, Record

NOW = 1_714_816_745.028709
CLIENT = Workload("c", "client-1", "shop", service_account="buyer", cluster_id="k1")
SERVER = Workload("s", "", "store", canonical_name="srv", service_account="seller", cluster_id="k2")
OPENED = Opened(
    Direction.OUTBOUND,
    SocketAddress.parse("10.0.0.1:40000"),
    SocketAddress.parse("[fd00::2]:15008"),
    CLIENT,
    SERVER,
    CLIENT.identity,
    SERVER.identity,
    is_mutual_tls=True,
    authority="[fd00::2]:80",
    service=Service("server", "store", "server.store.svc.cluster.local"),
)
DONE = Record(OPENED, Outcome.OK, to_server_bytes=84, to_client_bytes=312, duration_s=0.0139)
PLAIN_LINE = (
    "2024-05-04T09:59:05.028709Z\tinfo\taccess\tconnection complete\t"
    'src.addr=10.0.0.1:40000 src.workload="client-1" src.namespace="shop" '
    'src.identity="spiffe://cluster.local/ns/shop/sa/buyer" src.cluster="k1" '
    "dst.addr=[fd00::2]:15008 dst.hbone_addr=[fd00::2]:80 "
    'dst.service="server.store.svc.cluster.local" dst.workload="srv" dst.namespace="store" '
    'dst.identity="spiffe://cluster.local/ns/store/sa/seller" dst.cluster="k2" '
    'direction="outbound" bytes_sent=84 bytes_recv=312 duration="13ms"'
)


def test_plain_line_is_ztunnels() -> None:
    assert line(DONE, NOW) == PLAIN_LINE


def test_json_line_has_the_same_fields_in_the_same_order() -> None:
    got = json.loads(line(DONE, NOW, as_json=True))
    plain_keys = re.findall(r"(?:^|\t| )([a-z_.]+)=", PLAIN_LINE)
    assert list(got) == ["level", "time", "scope", "message", *plain_keys]
    assert (got["level"], got["scope"], got["bytes_sent"]) == ("info", "access", 84)


UNPROVEN = OPENED._replace(destination_identity=None)
SELLER = "spiffe://cluster.local/ns/store/sa/seller"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_refused_tunnel_names_who_was_to_be_at_its_end(as_json: bool) -> None:
    def named(opened: Opened, outcome: Outcome = Outcome.POLICY_DENIED) -> bool:
        return SELLER in line(Record(opened, outcome, "why"), NOW, as_json)

    assert named(UNPROVEN)
    assert not named(UNPROVEN, Outcome.OK), "what went well without a proof is not dressed up as one"
    assert not named(UNPROVEN._replace(destination=None)), "nobody knows"
    assert not named(UNPROVEN._replace(authority=None)), "in plaintext nobody was to prove anything"
    assert not named(UNPROVEN._replace(direction=Direction.INBOUND))


def test_who_proved_to_be_somebody_is_named_and_not_who_was_expected() -> None:
    text = line(Record(OPENED._replace(destination_identity=CLIENT.identity), Outcome.POLICY_DENIED), NOW)
    assert 'dst.identity="spiffe://cluster.local/ns/shop/sa/buyer"' in text and SELLER not in text


def test_failure_is_an_error_that_names_outcome_and_detail() -> None:
    text = line(Record(OPENED, Outcome.POLICY_DENIED, "denied by store/no-shop"), NOW)
    assert "\terror\taccess\t" in text
    assert text.endswith('duration="0ms" error="POLICY_DENIED: denied by store/no-shop"')


def test_inbound_bytes_are_seen_from_the_server() -> None:
    inbound = Record(
        OPENED._replace(direction=Direction.INBOUND),
        Outcome.OK,
        to_server_bytes=84,
        to_client_bytes=312,
    )
    assert "bytes_sent=312 bytes_recv=84" in line(inbound, NOW)


def test_unknown_fields_are_left_out() -> None:
    bare = Opened(Direction.INBOUND, OPENED.source_address, SocketAddress.parse("10.0.0.2:80"))
    assert line(Record(bare, Outcome.OK), NOW).split("\t")[4] == (
        'src.addr=10.0.0.1:40000 dst.addr=10.0.0.2:80 direction="inbound" '
        'bytes_sent=0 bytes_recv=0 duration="0ms"'
    )


def test_opened_line_has_no_bytes_and_refused_line_only_addresses() -> None:
    opened = opened_line(OPENED, NOW)
    assert "\tdebug\taccess\tconnection opened\t" in opened
    assert "bytes" not in opened and "duration" not in opened
    refused = refused_line(Direction.INBOUND, OPENED.source_address, OPENED.destination_address, "no", NOW)
    assert refused.endswith(
        "\twarn\taccess\tconnection failed\t"
        'src.addr=10.0.0.1:40000 dst.addr=[fd00::2]:15008 direction="inbound" error="no"'
    )


def test_phases_come_after_everything_ztunnel_has() -> None:
    record = DONE._replace(phases=(("tls", 0.0042), ("connect", 0.001)))
    assert line(record, NOW) == PLAIN_LINE + " tls_ms=4.2 connect_ms=1.0"


FORGERY = '10.0.0.9:80" bytes_sent=1\n2024-05-04T09:59:05.028709Z\tinfo\taccess\tconnection complete\t'


@pytest.mark.parametrize("as_json", [False, True])
@settings(max_examples=150)
@given(st.one_of(st.just(FORGERY), st.text(max_size=40)))
def test_no_peer_can_end_the_line_or_fake_a_field(as_json: bool, text: str) -> None:
    hostile = OPENED._replace(authority=text or "x")
    got = line(Record(hostile, Outcome.UPSTREAM_REFUSED, text), NOW, as_json)
    assert len(got.splitlines()) == 1
    assert got.isascii() and got.replace("\t", "").isprintable()
    if as_json:
        assert json.loads(got)["dst.hbone_addr"] == (text or "x")
        return
    fields = got.split("\t")
    assert len(fields) == 5
    outside_quotes = re.sub(r'"(?:[^"\\]|\\.)*"', '""', fields[4])
    assert re.findall(r"([a-z_.]+)=", outside_quotes).count("bytes_sent") == 1


def test_missing_lines_have_a_line_of_the_same_shape() -> None:
    assert lost_line(7, NOW) == (
        "2024-05-04T09:59:05.028709Z\twarn\taccess\t"
        "lines lost: the reader of this log was too slow, or its disk full\tlines=7"
    )
    assert json.loads(lost_line(7, NOW, as_json=True))["lines"] == 7
