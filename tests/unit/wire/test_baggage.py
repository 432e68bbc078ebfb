"""Attribution headers: the exact text peers expect, and no harm from what they send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.address import SocketAddress
from agent.model.workload import Locality, Workload, WorkloadType
from agent.wire import baggage

WEB = Workload(
    uid="u",
    name="web-1",
    namespace="apps",
    workload_name="web",
    workload_type=WorkloadType.DEPLOYMENT,
    canonical_name="web",
    canonical_revision="v1",
    locality=Locality("north", "north-1"),
)


def test_baggage_has_ztunnels_order() -> None:
    assert baggage.baggage(WEB) == (
        "k8s.cluster.name=Kubernetes,k8s.namespace.name=apps,k8s.deployment.name=web,"
        "service.name=web,service.version=v1,cloud.region=north,cloud.availability_zone=north-1"
    )


def test_unknown_attributes_are_left_out() -> None:
    bare = Workload(uid="u", name="n", namespace="", cluster_id="")
    assert baggage.baggage(bare) == ""


def test_baggage_comes_back() -> None:
    parsed = baggage.parse_baggage([baggage.baggage(WEB)])
    assert parsed["k8s.deployment.name"] == "web"
    assert parsed["cloud.availability_zone"] == "north-1"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], {}),
        (["a=b,c"], {"a": "b"}),
        (["a="], {}),
        (["a=b=c"], {"a": "b"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a=1", "b=\xe9"], {}),
    ],
)
def test_received_baggage(lines: list[str], expected: dict[str, str]) -> None:
    assert baggage.parse_baggage(lines) == expected


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ('for="1.2.3.4:5";host=web.apps.svc', "web.apps.svc"),
        ('host="quoted"', "quoted"),
        ("for=x", None),
        ("host=", None),
        ("", None),
        (None, None),
        ("host=\xe9", None),
        ("host=" + "x" * 5000, None),
    ],
)
def test_forwarded_host(value: str | None, host: str | None) -> None:
    assert baggage.forwarded_host(value) == host


def test_forwarded_text() -> None:
    assert baggage.forwarded(SocketAddress.parse("[::1]:1234"), None) == 'for="[::1]:1234"'
    assert baggage.forwarded(SocketAddress.parse("1.2.3.4:5"), "h") == 'for="1.2.3.4:5";host=h'


def test_traceparent_has_55_characters() -> None:
    assert baggage.traceparent(b"\x01" * 16, b"\x02" * 8) == "00-" + "01" * 16 + "-" + "02" * 8 + "-00"


@given(st.lists(st.text()), st.text())
def test_nothing_a_peer_sends_raises(lines: list[str], value: str) -> None:
    baggage.parse_baggage(lines)
    baggage.forwarded_host(value)
