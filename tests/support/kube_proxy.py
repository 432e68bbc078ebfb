"""Services in iptables, in the chains and the order that kube-proxy writes them in (proxier.go of Kubernetes 1.33).

Those of `labmesh`: `server` on both nodes, `own` and `hidden` on server-a, the last with a node port and the address
of a load balancer. A pod's call to itself, and one from outside of the node's pods, is masqueraded.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from redirect.netns import entered
from tests.support.labmesh import HOST_VIP, NODE_PORT, OWN_VIP, PORT, VIP4, VIP6

BALANCER = {4: "203.0.113.80", 6: "2001:db8::80"}
"""Of `hidden`."""
ENDPOINTS = {
    4: {"a": f"10.77.1.12:{PORT}", "b": f"10.77.2.12:{PORT}"},
    6: {"a": f"[fd77:1::12]:{PORT}", "b": f"[fd77:2::12]:{PORT}"},
}
COMMANDS = {
    "iptables-nft": {4: "iptables-nft-restore", 6: "ip6tables-nft-restore"},
    "iptables-legacy": {4: "iptables-legacy-restore", 6: "ip6tables-legacy-restore"},
}
BITS = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    addresses: tuple[str, ...]
    endpoints: str
    """Letters of nodes."""
    node_port: int = 0


def install(netns: Path, backend: str, own4: str, own6: str) -> None:
    """`own`: the ranges of the node's pods."""
    for version, own in ((4, own4), (6, own6)):
        with entered(netns):
            subprocess.run(
                [COMMANDS[backend][version], "--noflush"],
                input="\n".join((*_filter(), *_nat(version, own), "")),
                text=True,
                check=True,
            )


def _services(version: int) -> Iterator[_Service]:
    if version == 4:
        yield _Service("SERVER", (VIP4,), "ab")
        yield _Service("OWN", (OWN_VIP,), "a")
        yield _Service("HIDDEN", (HOST_VIP, BALANCER[4]), "a", NODE_PORT)
    else:
        yield _Service("SERVER", (VIP6,), "ab")
        yield _Service("HIDDEN", (BALANCER[6],), "a", NODE_PORT)


def _filter() -> Iterator[str]:
    yield from ("*filter", ":KUBE-FORWARD - [0:0]", "-A FORWARD -j KUBE-FORWARD")
    yield "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT"
    yield "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    yield "COMMIT"


def _nat(version: int, own: str) -> Iterator[str]:
    services, endpoints = tuple(_services(version)), ENDPOINTS[version]
    yield "*nat"
    chains = ["SERVICES", "NODEPORTS", "MARK-MASQ", "POSTROUTING"]
    for service in services:
        chains += [f"SVC-{service.name}", f"EXT-{service.name}"]
        chains += [f"SEP-{service.name}-{letter}" for letter in service.endpoints]
    yield from (f":KUBE-{chain} - [0:0]" for chain in chains)
    yield from (
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
    )
    yield "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000"
    yield "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN"
    yield "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0"
    yield "-A KUBE-POSTROUTING -j MASQUERADE --random-fully"
    for service in services:
        yield from _service(version, own, service, endpoints)
    yield "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
    yield "COMMIT"


def _service(version: int, own: str, service: _Service, endpoints: Mapping[str, str]) -> Iterator[str]:
    cluster, *balancers = service.addresses
    name = service.name
    to = f"-d {{}}/{BITS[version]} -p tcp --dport 80"
    yield f"-A KUBE-SERVICES {to.format(cluster)} -j KUBE-SVC-{name}"
    yield from (f"-A KUBE-SERVICES {to.format(each)} -j KUBE-EXT-{name}" for each in balancers)
    if service.node_port:
        yield f"-A KUBE-NODEPORTS -p tcp --dport {service.node_port} -j KUBE-EXT-{name}"
    yield f"-A KUBE-EXT-{name} -s {own} -j KUBE-SVC-{name}"
    yield f"-A KUBE-EXT-{name} -j KUBE-MARK-MASQ"
    yield f"-A KUBE-EXT-{name} -j KUBE-SVC-{name}"
    yield f"-A KUBE-SVC-{name} ! -s {own} -p tcp -d {cluster}/{BITS[version]} --dport 80 -j KUBE-MARK-MASQ"
    for number, letter in enumerate(service.endpoints):
        left = len(service.endpoints) - number
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield f"-A KUBE-SVC-{name} {chance}-j KUBE-SEP-{name}-{letter}"
        address = endpoints[letter].rpartition(":")[0].strip("[]")
        yield f"-A KUBE-SEP-{name}-{letter} -s {address}/{BITS[version]} -j KUBE-MARK-MASQ"
        yield f"-A KUBE-SEP-{name}-{letter} -p tcp -j DNAT --to-destination {endpoints[letter]}"
