"""What tests do to the links of a lab: their MTU, and paths that drop what is too large without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from agent.lab import firewall
from agent.lab.topology import PodPlace
from agent.lab.wiring import UPLINK
from redirect.netns import entered
from tests.support.labmesh import World

SILENCE = """\
add table inet silence
delete table inet silence
table inet silence {
  chain output {
    type filter hook output priority 0;
    icmp type destination-unreachable icmp code frag-needed counter drop
    icmpv6 type packet-too-big counter drop
  }
}
"""


def set_mtu(netns: Path, ifname: str, mtu_bytes: int) -> int:
    """`ip link set IFNAME mtu MTU`; the one before."""
    with entered(netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=ifname)
        (link,) = ip.get_links(index)
        ip.link("set", index=index, mtu=mtu_bytes)
        return int(link.get("mtu"))


@contextmanager
def small_link(world: World, mtu_bytes: int) -> Iterator[None]:
    """The link between the nodes with another MTU for the block, at both ends: a veth drops what it cannot take."""
    nodes = list(world.lab.nodes.values())
    usual = [set_mtu(node.netns, UPLINK, mtu_bytes) for node in nodes]
    try:
        yield
    finally:
        for node, before in zip(nodes, usual, strict=True):
            set_mtu(node.netns, UPLINK, before)


@contextmanager
def silent_link(world: World, mtu_bytes: int) -> Iterator[None]:
    """The same, and no node says that something was too large."""
    nodes = list(world.lab.nodes.values())
    try:
        for node in nodes:
            firewall.apply(node.netns, SILENCE)
        with small_link(world, mtu_bytes):
            yield
    finally:
        for node in nodes:
            firewall.apply(node.netns, "delete table inet silence")


def resize(world: World, pod: PodPlace, mtu_bytes: int) -> None:
    """Another MTU for a pod, at both ends of its veth, as its CNI sets it."""
    set_mtu(pod.netns, "eth0", mtu_bytes)
    set_mtu(world.lab.node_of(pod.key).netns, pod.ifname, mtu_bytes)
