"""Nodes of a lab as CNIs, kube-proxies and network policies of many kinds leave them: pods on bridges, overlays, rules.

A lab is routed, with kube-proxy's NAT in nftables; `reshape` makes something else of it before the mesh starts. It all
lies in the nodes' and the pods' namespaces and goes with them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from agent.lab import firewall, wiring
from agent.lab.topology import UPLINK_ADDRESSES, NodePlace, PodPlace, Topology
from redirect.netns import entered
from tests.support import kube_proxy

SIDES = {"node-a": 1, "node-b": 2}
BRIDGE, OVERLAY = "cni0", "flannel.1"
OVERLAY_MTU_BYTES = 1450
LINK = {4: "10.77.{}.{}/24", 6: "fd77:{}::{}/64"}
"""Of a bridge: the number of its node, and that of an address on it."""
FOREIGN_MARK = "0x80/0x80"
"""A bit of ztun's own mark, by which another CNI routes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`nat`: who translates Services, "nftables", "iptables-nft" or "iptables-legacy". `is_filtered`: what is switched
    meets FORWARD (br_netfilter). `is_flat`: the uplink is a port of the bridge too, and the gateway of a node's pods is
    another machine, here the other node: it routes what they send, and what they get comes another way.
    `has_macspoofchk`: what a pod sends by another MAC than its own is dropped."""

    name: str
    is_bridged: bool = False
    is_filtered: bool = False
    is_hairpin: bool = False
    is_promiscuous: bool = False
    is_flat: bool = False
    has_macspoofchk: bool = False
    has_overlay: bool = False
    is_strict: bool = False
    nat: str = "nftables"

    @property
    def meets_forward(self) -> bool:
        """Whether what pods of one node send each other does, with a mesh or without."""
        return self.is_filtered or not self.is_bridged


def reshape(lab: Topology, shape: Shape) -> None:
    for node in lab.nodes.values():
        pods = [pod for pod in lab.pods.values() if pod.node == node.name]
        if shape.is_bridged:
            _bridge(node, pods, shape)
        if shape.has_macspoofchk:
            firewall.apply(node.netns, "".join(_macspoofchk(pod) for pod in pods))
        if shape.has_overlay:
            _overlay(node, [pod for pod in lab.pods.values() if pod.node != node.name])
        if shape.nat != "nftables":
            firewall.apply(node.netns, f"delete table inet {lab.name.replace('-', '_')}_services")
            kube_proxy.install(
                node.netns, shape.nat, f"10.77.{SIDES[node.name]}.0/24", f"fd77:{SIDES[node.name]}::/64"
            )
        _foreign_routing(node)
        firewall.apply(node.netns, _masquerade(node))
        firewall.apply(node.netns, _policy([pod.ifname for pod in pods]))
        if shape.is_strict:
            _strict(node)


def mark_seen(node: NodePlace) -> int:
    """How many segments of TCP had a mark that is another CNI's, wherever they came from.

    Reports of IGMP and MLD are left out: the kernel has their reserved tail room where other packets have their mark.
    """
    with entered(node.netns):
        said = subprocess.run(
            ["nft", "list", "counter", "inet", "marks", "seen"], capture_output=True, text=True, check=True
        )
    return int(said.stdout.partition("packets ")[2].split()[0])


def ip(netns: Path, *lines: str) -> None:
    """`ip LINE` in a namespace for each, all of it or an error."""
    for flag, group in groupby(lines, lambda line: "-6" if line.startswith("-6 ") else "-0"):
        batch = [line.removeprefix("-6 ") for line in group]
        words = ["ip", *([flag] if flag == "-6" else []), "-batch", "-"]
        with entered(netns):
            done = subprocess.run(words, input="\n".join(batch), text=True, capture_output=True)
        assert done.returncode == 0, (done.stderr, batch)


def _sysctl(netns: Path, name: str, value: str) -> None:
    with entered(netns):
        Path("/proc/sys", name).write_text(value)


def _bridge(node: NodePlace, pods: Iterable[PodPlace], shape: Shape) -> None:
    """As the CNI's bridge plugin does it with isGateway, hairpinMode and promiscMode."""
    side = SIDES[node.name]
    gateways = {version: pattern.format(side, 1) for version, pattern in LINK.items()}
    own = {
        version: pattern.format(3 - side if shape.is_flat else side, 1) for version, pattern in LINK.items()
    }
    for sysctl in ("iptables", "ip6tables"):
        _sysctl(node.netns, f"net/bridge/bridge-nf-call-{sysctl}", "1" if shape.is_filtered else "0")
    ports = [pod.ifname for pod in pods]
    ip(
        node.netns,
        f"link add {BRIDGE} type bridge",
        *(f"addr flush dev {port}" for port in ports),
        *(f"route flush dev {port}" for port in ports),
        *(f"-6 route flush dev {port}" for port in ports),
        *(f"link set {port} master {BRIDGE}" for port in ports),
        *(f"link set {port} type bridge_slave hairpin on" for port in ports if shape.is_hairpin),
        f"link set {BRIDGE} up",
        *([f"link set {BRIDGE} promisc on"] if shape.is_promiscuous else []),
        *(_uplink(node, side) if shape.is_flat else ()),
        *(f"addr add {address} dev {BRIDGE}" + " nodad" * (":" in address) for address in own.values()),
    )
    for pod in pods:
        addresses = [f"{address}/{24 if address.version == 4 else 64}" for address in pod.addresses]
        ip(
            pod.netns,
            "neigh flush dev eth0 nud permanent",
            "addr flush dev eth0 scope global",
            "route flush dev eth0",
            "-6 route del default",
            *(f"addr add {each} dev eth0" + " nodad" * (":" in each) for each in addresses),
            *(f"route add default via {address.partition('/')[0]}" for address in gateways.values()),
        )


def _uplink(node: NodePlace, side: int) -> Iterator[str]:
    """It becomes a port of the bridge, which gets its addresses."""
    yield f"addr flush dev {wiring.UPLINK}"
    yield f"-6 route flush dev {wiring.UPLINK}"
    yield f"link set {wiring.UPLINK} master {BRIDGE}"
    for address in UPLINK_ADDRESSES[node.name]:
        yield f"addr add {address} dev {BRIDGE}" + " nodad" * (":" in address)
    for address, own in zip((f"10.77.{side}.0/24", f"fd77:{side}::/64"), node.addresses, strict=True):
        yield f"route add {address} dev {BRIDGE} src {own}"


def _macspoofchk(pod: PodPlace) -> str:
    """Of the bridge plugin, for one pod."""
    with entered(pod.netns):
        said = subprocess.run(["ip", "-j", "link", "show", "eth0"], capture_output=True, check=True).stdout
    mac = json.loads(said)[0]["address"]
    return f"""\
table bridge nat {{
  chain PREROUTING {{
    type filter hook prerouting priority dstnat;
    jump cni-{pod.ifname}
  }}
  chain cni-{pod.ifname} {{
    iifname "{pod.ifname}" jump cni-{pod.ifname}-mac
  }}
  chain cni-{pod.ifname}-mac {{
    ether saddr {mac} return
    drop
  }}
}}
"""


def _overlay(node: NodePlace, far: Iterable[PodPlace]) -> None:
    """As flannel's vxlan backend does it; pods keep an MTU that is too large for it, as one that was forgotten."""
    side, other = SIDES[node.name], 3 - SIDES[node.name]
    ends = {4: ("10.78.0.{}", 24), 6: ("fd78::{}", 64)}
    uplinks = f"local 172.31.77.{side} remote 172.31.77.{other} dev uplink"
    ip(
        node.netns,
        f"link add {OVERLAY} type vxlan id 1 dstport 8472 {uplinks}",
        f"link set {OVERLAY} mtu {OVERLAY_MTU_BYTES} up",
        *(
            f"addr add {at.format(side)}/{bits} dev {OVERLAY}" + " nodad" * (v == 6)
            for v, (at, bits) in ends.items()
        ),
        *(
            f"route replace {address} via {ends[address.version][0].format(other)} dev {OVERLAY}"
            for pod in far
            for address in pod.addresses
        ),
    )


def _foreign_routing(node: NodePlace) -> None:
    """Another CNI routes what has its mark; whatever is sent there is lost. Who has it is counted, too."""
    ip(
        node.netns,
        f"rule add fwmark {FOREIGN_MARK} pref 111 lookup 200",
        f"-6 rule add fwmark {FOREIGN_MARK} pref 111 lookup 200",
        "route add blackhole default table 200",
        "-6 route add blackhole default table 200",
    )
    firewall.apply(
        node.netns,
        """\
table inet marks {
  counter seen { }
  chain early {
    type filter hook prerouting priority raw;
    meta l4proto tcp meta mark & 0x80 != 0 counter name seen
  }
  chain late {
    type filter hook postrouting priority 300;
    meta l4proto tcp meta mark & 0x80 != 0 counter name seen
  }
}
""",
    )


def _masquerade(node: NodePlace) -> str:
    """What pods say to anybody but pods has the node's address, as most CNIs have it."""
    side = SIDES[node.name]
    return f"""\
table inet outside {{
  chain postrouting {{
    type nat hook postrouting priority 105;
    ip saddr 10.77.{side}.0/24 ip daddr != 10.77.0.0/16 oifname != "{BRIDGE}" masquerade
    ip6 saddr fd77:{side}::/64 ip6 daddr != {{ fd77:1::/64, fd77:2::/64 }} oifname != "{BRIDGE}" masquerade
  }}
}}
"""


def _policy(ports: Iterable[str]) -> str:
    """FORWARD drops what is not allowed to or from the pods' own interfaces, as network policies and firewalls do."""
    names = ", ".join(f'"{name}"' for name in (*ports, BRIDGE))
    return f"""\
table inet netpol {{
  chain forward {{
    type filter hook forward priority 10; policy drop;
    ct state established,related accept
    iifname {{ {names} }} accept
    oifname {{ {names} }} tcp dport {{ 8080, 9090, 15008 }} accept
  }}
}}
"""


def _strict(node: NodePlace) -> None:
    """Reverse paths are checked: by the kernel for IPv4, by the rule of firewalls for IPv6."""
    for name in ("all", "default"):
        _sysctl(node.netns, f"net/ipv4/conf/{name}/rp_filter", "1")
    firewall.apply(
        node.netns,
        """\
table inet rpfilter {
  chain prerouting {
    type filter hook prerouting priority raw + 10;
    icmpv6 type { nd-neighbor-solicit, nd-router-advert } accept
    meta nfproto ipv6 fib saddr . iif oif missing drop
  }
}
""",
    )
