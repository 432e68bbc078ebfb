"""The pod's device of a rig: nothing goes through it but what a test sends."""

from __future__ import annotations

from pathlib import Path

from pyroute2 import IPRoute

from redirect import netns


def add_veth(device: str, peer: str, pod: Path) -> int:
    """A pod's veth pair: `ip link add DEVICE type veth peer name PEER netns POD`. The host end's ifindex."""
    with IPRoute() as ip, pod.open("rb") as namespace:
        ip.link("add", ifname=device, kind="veth", peer={"ifname": peer, "net_ns_fd": namespace.fileno()})
        (index,) = ip.link_lookup(ifname=device)
        _up_in_silence(ip, index, device)
    with netns.entered(pod), IPRoute() as ip:
        _up_in_silence(ip, ip.link_lookup(ifname=peer)[0], peer)
    return int(index)


def _up_in_silence(ip: IPRoute, index: int, name: str) -> None:
    """`ip link set NAME addrgenmode none up`. One with a link-local address reports that, asks who else has it, and
    asks for routers, at times of its own: five packets in the first two seconds, beside those that tests count."""
    Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text("1")
    ip.link("set", index=index, state="up")
