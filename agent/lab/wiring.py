"""Links, addresses and routes of the lab, by netlink: the shape of a routed CNI (Calico, ptp).

A pod has one /32 and one /128 on eth0 and a link-local gateway with a permanent neighbour entry; the node has a
host route to it. Nothing is made outside the namespaces named in the calls. Knows nothing of meshes; every step
carries its `ip` equivalent.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from agent.lab.blueprint import LabError
from agent.model.address import IP
from redirect.netns import entered

UPLINK = "uplink"
EXTERNAL = "external"
GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"
IFA_F_NODAD = 0x02
NUD_PERMANENT = 0x80
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def prepare_node(netns: Path) -> None:
    """A node's namespace forwards, has its loopback up, and a default route for what is nowhere."""
    with entered(netns), IPRoute() as ip:
        write_sysctl("net/ipv4/ip_forward", 1)
        write_sysctl("net/ipv6/conf/all/forwarding", 1)
        _skip_duplicate_detection()
        _up(ip, "lo")
        # A host process can dial a VIP only if some route covers it: NAT in OUTPUT comes after routing. A veth
        # whose other end stays down swallows what is left (`dummy` is not in every kernel).
        ip.link("add", ifname=EXTERNAL, kind="veth", peer={"ifname": f"{EXTERNAL}-end"})
        ip.link("set", index=ip.link_lookup(ifname=EXTERNAL)[0], arp=False)  # ip link set external arp off
        index = _up(ip, EXTERNAL)
        ip.route("add", family=socket.AF_INET, dst="default", oif=index)  # ip route add default dev external
        ip.route("add", family=socket.AF_INET6, dst="default", oif=index)


def join_nodes(one: Path, other: Path, addresses: tuple[Iterable[str], Iterable[str]]) -> None:
    """One veth between two node namespaces; `addresses` are those of each end, with prefix lengths."""
    with entered(one), IPRoute() as ip, other.open("rb") as peer:
        # ip link add uplink type veth peer name uplink netns OTHER
        ip.link("add", ifname=UPLINK, kind="veth", peer={"ifname": UPLINK, "net_ns_fd": peer.fileno()})
    for netns, own in zip((one, other), addresses, strict=True):
        with entered(netns), IPRoute() as ip:
            index = _up(ip, UPLINK)
            for address in own:
                _add_address(ip, index, address)


def attach_pod(node: Path, pod: Path, ifname: str, addresses: Iterable[IP]) -> None:
    """A pod's namespace behind host veth `ifname` of the node."""
    own = list(addresses)
    with entered(pod), IPRoute() as ip, node.open("rb") as host:
        _skip_duplicate_detection()
        _up(ip, "lo")
        # ip link add eth0 type veth peer name IFNAME netns NODE
        ip.link("add", ifname="eth0", kind="veth", peer={"ifname": ifname, "net_ns_fd": host.fileno()})
    hardware = _host_end(node, ifname, own)
    with entered(pod), IPRoute() as ip:
        index = _up(ip, "eth0")
        for address in own:
            _add_address(ip, index, f"{address}/{address.max_prefixlen}")
        for family in {address.version for address in own}:
            _default_route(ip, index, family, hardware)


def route_pods(node: Path, addresses: Iterable[IP], gateways: dict[int, str]) -> None:
    """The addresses of the other node's pods by way of that node; `gateways` by IP version."""
    with entered(node), IPRoute() as ip:
        for address in addresses:
            # ip route add ADDRESS via GATEWAY
            ip.route("add", dst=f"{address}/{address.max_prefixlen}", gateway=gateways[address.version])


def wait_until_up(netns: Path, timeout_s: float = 5.0) -> None:
    """Until every veth of the lab in a namespace carries packets.

    The kernel notices a carrier up to a second late (linkwatch): until then the queue of the device drops
    everything and IPv6 has no address there, so the first connection would lose its first packets.
    """
    deadline = time.monotonic() + timeout_s
    with entered(netns), IPRoute() as ip:
        while waiting := [link.get("ifname") for link in ip.get_links() if not _is_ready(link)]:
            if time.monotonic() > deadline:
                raise LabError(f"{netns.name}: {', '.join(waiting)} did not come up in {timeout_s:g} s")
            time.sleep(0.005)


def _is_ready(link: Any) -> bool:
    is_ours = link.get("ifname") not in ("lo", EXTERNAL, f"{EXTERNAL}-end")
    return not is_ours or link.get("operstate") == "UP"


def _host_end(node: Path, ifname: str, addresses: Iterable[IP]) -> str:
    """Sets up the host's end; its hardware address."""
    with entered(node), IPRoute() as ip:
        index = _up(ip, ifname)
        _add_address(ip, index, f"{GATEWAY6}/64")
        for address in addresses:
            # ip route add ADDRESS dev IFNAME scope link
            scope = {"scope": "link"} if address.version == 4 else {}
            ip.route("add", dst=f"{address}/{address.max_prefixlen}", oif=index, **scope)
        (link,) = ip.get_links(index)
        return str(link.get("address"))


def _default_route(ip: IPRoute, index: int, version: int, hardware: str) -> None:
    gateway, family = (GATEWAY4, socket.AF_INET) if version == 4 else (GATEWAY6, socket.AF_INET6)
    if version == 4:
        ip.route("add", dst=f"{gateway}/32", oif=index, scope="link")  # ip route add 169.254.1.1 dev eth0
    # ip neigh add GATEWAY lladdr MAC dev eth0 nud permanent
    ip.neigh("add", dst=gateway, lladdr=hardware, ifindex=index, family=family, state=NUD_PERMANENT)
    ip.route("add", family=family, dst="default", gateway=gateway, oif=index)


def _up(ip: IPRoute, ifname: str) -> int:
    """`ip link set IFNAME up`; its index."""
    index: int = ip.link_lookup(ifname=ifname)[0]
    ip.link("set", index=index, state="up")
    return index


def _add_address(ip: IPRoute, index: int, address: str) -> None:
    """`ip addr add ADDRESS/LENGTH dev INDEX nodad`"""
    host, _, length = address.partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    flags = {"flags": IFA_F_NODAD} if family == socket.AF_INET6 else {}
    ip.addr("add", index=index, address=host, prefixlen=int(length), family=family, **flags)


def _skip_duplicate_detection() -> None:
    for scope in ("all", "default"):
        write_sysctl(f"net/ipv6/conf/{scope}/accept_dad", 0)


def write_sysctl(name: str, value: object) -> None:
    """`sysctl -w NAME=VALUE` in the namespace of the calling thread; slashes between the parts."""
    Path("/proc/sys", name).write_text(f"{value}\n")
