"""What is counted and known of a connection goes to another process whole, and nothing else is taken for it."""

from __future__ import annotations

import json

import pytest

from agent.model.address import NamespacedHostname, SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome
from agent.model.service import Service
from agent.model.unit import BadUnit, StateReader, Unit, decode, encode
from agent.model.workload import Locality, Workload
from agent.telemetry import access_log
from agent.telemetry.past import Past
from agent.telemetry.record import Attributes, Opened, Record, labels

SOURCE = Workload(
    "uid-1",
    "client-0",
    "shop",
    trust_domain="td",
    service_account="client",
    workload_name="client",
    canonical_name="c",
    canonical_revision="v1",
    cluster_id="east",
    locality=Locality("r1", "z1", "s1"),
)
OPENED = Opened(
    direction=Direction.INBOUND,
    source_address=SocketAddress.parse("10.0.0.1:40000"),
    destination_address=SocketAddress.parse("[fd00::2]:15008"),
    source=SOURCE,
    destination=Workload("uid-2", "server-0", "shop", workload_name="server"),
    source_identity=SOURCE.identity,
    is_mutual_tls=True,
    authority="10.0.0.2:80",
    service=Service("web", "shop", "web.shop.svc.cluster.local"),
    source_claims=Attributes("a", "b", "c", "d", "e", "f", "g", "h", "i"),
)
OTHERS = (
    OPENED,
    OPENED.proven(SOURCE.identity)._replace(service=NamespacedHostname("shop", "web.example")),
    Opened(Direction.OUTBOUND, OPENED.source_address, OPENED.destination_address),
    OPENED._replace(source=None, destination_claims=OPENED.source_claims, source_claims=None),
)


def past(opened: Opened) -> Past:
    return Past(opened, labels(opened), 7, 9, 3.5)


def moved(before: Past) -> Past:
    return Past.from_state(StateReader("record", decode(encode(Unit("record", before.state()))).fields))


@pytest.mark.parametrize("opened", OTHERS)
@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.RESET])
def test_the_line_and_the_labels_are_those_it_would_have_had(opened: Opened, outcome: Outcome) -> None:
    before = past(opened)
    after = moved(before)
    assert after._replace(opened=opened) == before
    assert labels(after.opened) == labels(opened)
    for as_json in (False, True):
        lines = [
            access_log.line(Record(each, outcome, "", 7, 9, 3.5), 1.0, as_json)
            for each in (opened, after.opened)
        ]
        assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("direction", "sideways"),
        ("source_address", "10.0.0.1"),
        ("source_identity", "spiffe://td"),
        ("labels", ["source"]),
        ("service", ["a", "b", "c", "d"]),
        ("service", []),
        ("source_claims", ["a"]),
        ("to_client_bytes", -1),
        ("age_s", -0.1),
        ("later", 1),
        ("source", {}),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    state = past(OPENED).state() | {name: value}
    with pytest.raises(BadUnit, match=name):
        Past.from_state(StateReader("record", json.loads(json.dumps(state))))


@pytest.mark.parametrize("name", sorted(past(OPENED).state()))
def test_nothing_may_be_missing(name: str) -> None:
    state = json.loads(json.dumps(past(OPENED).state()))
    del state[name]
    with pytest.raises(BadUnit, match=name):
        Past.from_state(StateReader("record", state))
