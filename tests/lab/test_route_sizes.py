"""What routes of a namespace say about sizes, as a real kernel lists them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from redirect import netns, route_sizes, routes, rt_rows
from redirect.packet_size import RouteSize
from tests.support import path_mtu
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel
OWN, GATEWAY, FAR = "10.1.1.1", "10.1.1.2", "10.9.9.9"
OWN6, GATEWAY6, FAR6 = "fd01::1", "fd01::2", "fd09::9"


@pytest.fixture
def veth() -> Iterator[tuple[Path, int]]:
    """A namespace with both ends of a veth; `eth0`, of that ifindex, has addresses and default routes."""
    name = f"hs-{os.getpid()}"
    path = netns.ensure(name)
    try:
        with netns.entered(path), IPRoute() as ip:
            # No link-local addresses: they and their routes come after a second of duplicate address detection.
            Path("/proc/sys/net/ipv6/conf/default/addr_gen_mode").write_text("1")
            ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "peer"})
            index, peer = (ip.link_lookup(ifname=each)[0] for each in ("eth0", "peer"))
            for each in (index, peer):
                ip.link("set", index=each, state="up")
            until(lambda: multicast_routes() == {index, peer}, "the kernel has seen that both are up")
            ip.addr("add", index=index, address=OWN, prefixlen=24)
            ip.addr("add", index=index, address=OWN6, prefixlen=64, flags=0x02)  # nodad
            (link,) = ip.get_links(peer)
            for gateway in (GATEWAY, GATEWAY6):
                ip.neigh(
                    "add", dst=gateway, lladdr=link.get("address"), ifindex=index, state=0x80
                )  # permanent
                ip.route("add", dst="default", gateway=gateway)
        yield path, index
    finally:
        netns.remove(name)


def multicast_routes() -> set[int]:
    """The interfaces that have the kernel's ff00::/8."""
    return {route.oif for route in rt_rows.routes() if (route.destination, route.prefix) == ("ff00::", 8)}


def sizes(path: Path, index: int) -> set[RouteSize]:
    with netns.entered(path):
        return {size for ifindex, size in route_sizes.read() if ifindex == index}


def test_routes_and_the_interface_say_what_fits(veth: tuple[Path, int]) -> None:
    path, index = veth
    assert sizes(path, index) == {RouteSize(6, 1500)}
    with netns.entered(path), IPRoute() as ip:
        # ip route add 10.2.0.0/16 via GATEWAY mtu 1400 advmss 1300
        ip.route("add", dst="10.2.0.0/16", gateway=GATEWAY, metrics={"mtu": 1400, "advmss": 1300})
        hops = [{"gateway": GATEWAY}, {"gateway": "10.1.1.3"}]
        ip.route("add", dst="10.3.0.0/16", multipath=hops, metrics={"mtu": 1200})
        ip.route("add", dst="fd02::/64", gateway=GATEWAY6, metrics={"mtu": 1350})
        ip.route("add", dst="10.4.0.0/16", type="unreachable", metrics={"mtu": 700})
        Path("/proc/sys/net/ipv6/conf/eth0/mtu").write_text("1333")
    assert sizes(path, index) == {
        RouteSize(4, 1400, 1300),
        RouteSize(4, 1200),
        RouteSize(6, 1350),
        RouteSize(6, 1333),
    }


@pytest.mark.parametrize(("own", "far"), [(OWN, FAR), (OWN6, FAR6)])
def test_what_was_learnt_about_one_destination_is_no_limit_for_all(
    veth: tuple[Path, int], own: str, far: str
) -> None:
    path, index = veth
    with netns.entered(path), IPRoute() as ip:
        (link,) = ip.get_links(index)
        before = routes.routes(), rt_rows.routes()
    mac = bytes.fromhex(link.get("address").replace(":", ""))

    def told() -> int:
        """Again, while it is not heard: a socket that comes just after its address may not be found yet."""
        path_mtu.told(path, own, far, (path, "peer"), mac, 1300)
        return path_mtu.learnt(path, far)

    assert until(told, "a path MTU") == 1300
    assert sizes(path, index) == {RouteSize(6, 1500)}
    with netns.entered(path):
        assert (routes.routes(), rt_rows.routes()) == before, "nobody has set it up"
