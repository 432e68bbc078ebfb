"""Filters, addresses, routes, rules and counters read raw, against what was put there, in an own namespace."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from pyroute2 import IPRoute

from redirect import netns, rt_rows, tc_rows
from redirect.rt_rows import RTN_LOCAL, Route, Rule

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace of its own")


@pytest.fixture
def ip() -> Iterator[IPRoute]:
    name = f"hrows{os.getpid()}"
    try:
        with netns.entered(netns.ensure(name)), IPRoute() as opened:
            opened.link("set", index=1, state="up")
            yield opened
    finally:
        netns.remove(name)


def test_addresses_are_those_of_the_interfaces(ip: IPRoute) -> None:
    ip.addr("add", index=1, address="10.1.2.3", prefixlen=24)
    ip.addr("add", index=1, address="fd00::3", prefixlen=64, flags=2)
    expected = {(1, ip_address(text)) for text in ("127.0.0.1", "::1", "10.1.2.3", "fd00::3")}
    assert set(rt_rows.addresses()) == expected
    ip.link("add", ifname="other", kind="veth", peer={"ifname": "peer"})
    (other,) = ip.link_lookup(ifname="other")
    ip.addr("add", index=other, address="10.9.9.9", prefixlen=32)
    ip.addr("add", index=other, address="fd99::9", prefixlen=128, flags=2)
    assert set(rt_rows.addresses(1)) == expected
    assert set(rt_rows.addresses(other)) == {(other, ip_address(text)) for text in ("10.9.9.9", "fd99::9")}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_routes_and_rules_are_told_with_their_tables(ip: IPRoute, family: socket.AddressFamily) -> None:
    scope = {"scope": 254} if family == socket.AF_INET else {}
    ip.route("add", family=family, type="local", dst="default", oif=1, table=1000, **scope)
    ip.rule("add", family=family, iifname="anywhere", table=1000, priority=7)
    assert Route(family, 1000, RTN_LOCAL, 1) in rt_rows.routes()
    assert {Rule(family, 7, "anywhere", 1000), Rule(family, 0, "", 255)} < rt_rows.rules()
    ip.flush_routes(family=family, table=1000)
    assert not [route for route in rt_rows.routes() if route.table == 1000]


def test_packets_are_counted_by_interface(ip: IPRoute) -> None:
    before = rt_rows.packet_counts()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(5):
            sock.sendto(b"x", ("127.0.0.1", 9))
    after = rt_rows.packet_counts()[1]
    # Loopback counts each on both sides, and the ICMP answer as well.
    assert after.sent - before.sent >= 5 and after.received - before.received >= 5


def test_filters_are_listed_in_the_order_in_which_they_run(ip: IPRoute) -> None:
    assert tc_rows.ingress_qdiscs() == {}
    ip.tc("add", "clsact", index=1)
    for priority in (9, 4):
        ip.tc(
            "add-filter", "u32", index=1, parent=tc_rows.CLSACT_EGRESS, prio=priority, protocol=0x0003,
            target=1, keys=["0x0/0x0+0"],
        )  # fmt: skip
    assert tc_rows.ingress_qdiscs() == {1: "clsact"}
    rows = tc_rows.filters(1, tc_rows.CLSACT_EGRESS)
    assert (
        sorted({row.priority for row in rows}) == list(dict.fromkeys(row.priority for row in rows)) == [4, 9]
    )
    assert {(row.kind, row.name, row.program_id) for row in rows} == {("u32", "", 0)}
    assert tc_rows.filters(1, tc_rows.CLSACT_INGRESS) == tc_rows.filters(77, tc_rows.CLSACT_EGRESS) == []
