"""A node in a network namespace of its own, with many pods: each behind a veth, routed or on a bridge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from redirect import netns

GATEWAY, BRIDGE, BRIDGE_ADDRESS = "169.254.1.1", "cni0", "10.64.255.254"
PREFIX_BITS = 12


def address_of(number: int) -> str:
    return f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


@contextmanager
def node(prefix: str, count: int, *, has_bridge: bool = False) -> Iterator[tuple[Path, list[Path]]]:
    """The namespaces of a node, and of so many pods on it."""
    made = [f"{prefix}-n", *(f"{prefix}-{number}" for number in range(count))]
    try:
        paths = [netns.ensure(name) for name in made]
        with netns.entered(paths[0]), IPRoute() as ip:
            ip.link("set", index=1, state="up")
            ip.addr("add", index=1, address="10.63.0.1", prefixlen=32)
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            bridge = _add_bridge(ip) if has_bridge else 0
            for number, path in enumerate(paths[1:], 1):
                add_pod(ip, number, path, bridge)
        yield paths[0], paths[1:]
    finally:
        for name in made:
            netns.remove(name)


def add_pod(ip: IPRoute, number: int, path: Path, bridge: int = 0) -> None:
    """`ip link add bvN type veth peer name eth0 netns POD`, addressed as by a CNI. `bridge`: what it is a port of."""
    device = f"bv{number}"
    with path.open("rb") as namespace:
        ip.link("add", ifname=device, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace.fileno()})
    (index,) = ip.link_lookup(ifname=device)
    if bridge:
        ip.link("set", index=index, master=bridge)
    else:
        ip.addr("add", index=index, address=GATEWAY, prefixlen=32)
    ip.link("set", index=index, state="up")
    gateway = BRIDGE_ADDRESS if bridge else GATEWAY
    with netns.entered(path), IPRoute() as inside:
        (eth0,) = inside.link_lookup(ifname="eth0")
        inside.addr("add", index=eth0, address=address_of(number), prefixlen=PREFIX_BITS if bridge else 32)
        inside.link("set", index=eth0, state="up")
        if not bridge:
            inside.route("add", dst=f"{gateway}/32", oif=eth0, scope=253)
        inside.route("add", dst="default", gateway=gateway, oif=eth0)
    if not bridge:
        ip.route("add", dst=f"{address_of(number)}/32", oif=index, scope=253)


def _add_bridge(ip: IPRoute) -> int:
    ip.link("add", ifname=BRIDGE, kind="bridge")
    (index,) = ip.link_lookup(ifname=BRIDGE)
    ip.addr("add", index=index, address=BRIDGE_ADDRESS, prefixlen=PREFIX_BITS)
    ip.link("set", index=index, state="up")
    return int(index)
