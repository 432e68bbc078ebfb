"""What is made by rtnetlink is there as it was meant, and goes again, in an own namespace."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from redirect import netns, rt_rows, rt_writes, rtnetlink, tc_rows
from redirect.rt_rows import RTN_LOCAL, RTN_UNICAST, Route, Rule

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace of its own")

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])


@pytest.fixture
def ifindex() -> Iterator[int]:
    """Of a veth whose other end is in the same namespace as `there`."""
    name, far = f"hwrite{os.getpid()}", f"hfar{os.getpid()}"
    try:
        with netns.ensure(far).open("rb") as other, netns.entered(netns.ensure(name)):
            rt_writes.add_veth("there", other.fileno())
            row = rtnetlink.named("there")
            assert row is not None and (row.kind, row.is_up) == ("veth", False)
            rt_writes.set_up(1)
            rt_writes.set_up(row.ifindex, has_arp=False)
            yield row.ifindex
    finally:
        netns.remove(name)
        netns.remove(far)


def test_a_link_has_its_settings_and_goes(ifindex: int) -> None:
    rt_writes.set_mtu(ifindex, 1400)
    row = rtnetlink.named("there")
    assert row is not None and (row.mtu_bytes, row.has_arp) == (1400, False)
    with pytest.raises(FileExistsError), netns.OWN.open("rb") as here:
        rt_writes.add_veth("there", here.fileno())
    rt_writes.delete_link(ifindex)
    assert rtnetlink.named("there") is None


@pytest.mark.parametrize("text", ["169.254.7.7", "fd7a::7"])
def test_an_address_may_be_put_twice_and_goes_once(ifindex: int, text: str) -> None:
    address = ip_address(text)
    for _ in range(2):
        rt_writes.put_address(1, address)
    assert (1, address) in rt_rows.addresses()
    rt_writes.delete_address(1, address)
    assert (1, address) not in rt_rows.addresses()


@FAMILIES
def test_routes_are_put_and_deleted_by_what_they_are(ifindex: int, family: socket.AddressFamily) -> None:
    destination, prefix = ("10.9.0.0", 16) if family == socket.AF_INET else ("fd09::", 32)
    made = {
        Route(family, 254, RTN_UNICAST, ifindex),
        Route(family, 1000, RTN_LOCAL, 1),
        Route(family, 254, RTN_UNICAST, ifindex, destination, prefix),
    }
    for route in made:
        rt_writes.put_route(route)
        rt_writes.put_route(route)
    assert made <= rt_rows.routes()
    for route in rt_rows.routes() & made:
        rt_writes.delete_route(route)
    assert not made & rt_rows.routes()


@FAMILIES
def test_rules_are_added_and_deleted_by_what_they_are(family: socket.AddressFamily, ifindex: int) -> None:
    marked = Rule(family, 50, "", 100, 0x111, 0xFFFF)
    by_device = Rule(family, 50, "there", 100)
    for rule in (marked, by_device):
        rt_writes.add_rule(rule)
    assert {marked, by_device} <= rt_rows.rules()
    rt_writes.delete_rule(marked)
    assert marked not in rt_rows.rules() and by_device in rt_rows.rules()
    rt_writes.flush_rules(family, 50)
    assert by_device not in rt_rows.rules()
    rt_writes.flush_rules(family, 50)
    rt_writes.flush_rules(family, 0)
    assert Rule(family, 0, "", 255) not in rt_rows.rules()
    rt_writes.add_rule(Rule(family, 0, "", 255))
    assert Rule(family, 0, "", 255) in rt_rows.rules()


def test_a_clsact_comes_and_goes(ifindex: int) -> None:
    rt_writes.add_clsact(ifindex)
    assert tc_rows.ingress_qdiscs() == {ifindex: "clsact"}
    rt_writes.delete_clsact(ifindex)
    assert tc_rows.ingress_qdiscs() == {}
