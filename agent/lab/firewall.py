"""The host's NAT and filter of a lab node, as kube-proxy and a NetworkPolicy engine would set them up.

Pure text for `nft -f -`, and one function that feeds it to nft inside a node's namespace. Service VIPs and node
ports are DNATed to a random endpoint in PREROUTING and OUTPUT; a connection to oneself, and one that does not come
from a pod of the node, is masqueraded. Mark 0x4000 is kube-proxy's and stays clear of the bits of ztun.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.lab.blueprint import Blueprint, LabError, Service, ServicePort
from agent.model.address import IP
from redirect.netns import entered

MASQUERADE_MARK = "0x4000"
FAMILIES = {4: "ip", 6: "ip6"}


@dataclass(frozen=True, slots=True)
class Denied:
    """A pair of addresses whose packets FORWARD drops; `port` None means every port."""

    source: IP
    destination: IP
    port: int | None = None


def services_ruleset(table: str, blueprint: Blueprint, node: str) -> str:
    """The NAT of a node; replaces what the table held."""
    chains: list[str] = []
    dispatch: list[str] = []
    for number, (service, port) in enumerate((s, p) for s in blueprint.services for p in s.ports):
        for family, word in FAMILIES.items():
            for rule, body in _port_rules(
                f"s{number}v{family}", blueprint, service, port, family, word, node
            ):
                dispatch.append(rule)
                chains += body
    return "\n".join(
        [
            *_fresh(table),
            f"table inet {table} {{",
            *_pod_sets(blueprint, node),
            *chains,
            *_chain("services", dispatch),
            *_chain("prerouting", ["type nat hook prerouting priority dstnat;", "jump services"]),
            *_chain("output", ["type nat hook output priority -100;", "jump services"]),
            *_chain(
                "postrouting",
                [
                    "type nat hook postrouting priority srcnat;",
                    f"meta mark & {MASQUERADE_MARK} == 0 return",
                    "meta mark set meta mark & 0xffffbfff",
                    "masquerade",
                ],
            ),
            "}",
            "",
        ]
    )


def policy_ruleset(table: str, denied: Iterable[Denied]) -> str:
    """A filter in FORWARD that drops the given pairs, in the way a NetworkPolicy engine does."""
    rules = ["type filter hook forward priority filter; policy accept;"]
    for pair in denied:
        word = FAMILIES[pair.source.version]
        port = "" if pair.port is None else f" tcp dport {pair.port}"
        rules.append(f"{word} saddr {pair.source} {word} daddr {pair.destination}{port} counter drop")
    return "\n".join([*_fresh(table), f"table inet {table} {{", *_chain("forward", rules), "}", ""])


def apply(netns: Path, ruleset: str) -> None:
    """`nft -f -` inside a namespace; all of it or nothing."""
    try:
        with entered(netns):
            done = subprocess.run(["nft", "-f", "-"], input=ruleset, text=True, capture_output=True)
    except FileNotFoundError as error:
        raise LabError("the lab needs nft for Service NAT: apt install nftables") from error
    if done.returncode:
        raise LabError(f"nft refused the rules of {netns.name}: {done.stderr.strip()}")


def _fresh(table: str) -> list[str]:
    # "add" before "delete" makes the delete work whether or not the table is there.
    return [f"add table inet {table}", f"delete table inet {table}"]


def _chain(name: str, rules: Iterable[str]) -> list[str]:
    return [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]


def _pod_sets(blueprint: Blueprint, node: str) -> Iterator[str]:
    """The pods of this node. Who comes from elsewhere is masqueraded: the answer must pass here again."""
    pods = [pod for pod in blueprint.pods if pod.node == node]
    for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        addresses = [str(ip) for pod in pods for ip in pod.addresses if ip.version == family]
        elements = f" elements = {{ {', '.join(addresses)} }};" if addresses else ""
        yield f"  set pods{family} {{ type {kind};{elements} }}"


def _port_rules(
    name: str, blueprint: Blueprint, service: Service, port: ServicePort, family: int, word: str, node: str
) -> Iterator[tuple[str, list[str]]]:
    """(rule that dispatches, chains it leads to) for the VIPs, and again for the node port."""
    endpoints = blueprint.endpoints(service, port, family)
    targets = [(ip, number) for _, ip, number in endpoints]
    outsider = f"{word} saddr != @pods{family} meta mark set meta mark | {MASQUERADE_MARK}"
    vips = ", ".join(str(vip) for vip in service.vips if vip.version == family)
    if targets and vips:
        rule = f"{word} daddr {{ {vips} }} tcp dport {port.port} goto {name}"
        yield rule, _balance(name, targets, word, [outsider])
    if service.is_local_only:
        targets = [(ip, number) for pod, ip, number in endpoints if pod.node == node]
    if targets and vips and port.node_port:
        rule = f"meta nfproto ipv{family} fib daddr type local tcp dport {port.node_port} goto {name}np"
        yield rule, _balance(f"{name}np", targets, word, [] if service.is_local_only else [outsider])


def _balance(name: str, targets: list[tuple[IP, int]], word: str, first: list[str]) -> list[str]:
    """A chain per endpoint (masquerade what comes from itself, then DNAT) and one that picks at random."""
    chains: list[str] = []
    for number, (ip, port) in enumerate(targets):
        to = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
        hairpin = f"{word} saddr {ip} meta mark set meta mark | {MASQUERADE_MARK}"
        chains += _chain(f"{name}e{number}", [hairpin, f"meta l4proto tcp dnat {word} to {to}"])
    choice = ", ".join(f"{number} : goto {name}e{number}" for number in range(len(targets)))
    return chains + _chain(name, [*first, f"numgen random mod {len(targets)} vmap {{ {choice} }}"])
