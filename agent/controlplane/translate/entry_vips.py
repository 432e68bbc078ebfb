"""Addresses for the hosts of ServiceEntries that come without any, so that they can be told apart by connections.

In the ranges from which istiod gives them, and as there one of each family for each host. The place is a hash of the
entry and the host, so that it is the same on every run; once it is remembered it stays. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Network

from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.translate.vips import Remembered, probe
from agent.model.address import CIDR, IP, parse_ip

RANGES: tuple[CIDR, ...] = (IPv4Network("240.240.0.0/16"), IPv6Network("2001:2::/48"))


def allocate_hosts(
    entries: Collection[ServiceEntry], remembered: Remembered
) -> tuple[tuple[ServiceEntry, ...], Remembered, tuple[ManifestError, ...]]:
    """The entries with an address for each host that can have one, what to remember, and why some have none."""
    used = {ip for entry in entries for ips in entry.allocated.values() for ip in ips}
    used |= {ip for entry in entries for ip, length in entry.addresses if length == ip.max_prefixlen}
    wanting = [(entry, host) for entry in entries for host in entry.unaddressed_hosts]
    given: dict[str, tuple[IP, ...]] = {}
    errors: list[ManifestError] = []
    # Those that are remembered come first, so that a newcomer cannot take an address they hold.
    for entry, host in sorted(wanting, key=lambda w: (_name(*w) not in remembered, _name(*w))):
        held = [parse_ip(text) for text in remembered.get(_name(entry, host), ())]
        ips = tuple(_for_host(_name(entry, host), held, used))
        if len(ips) < len(RANGES):
            problem = f"{entry.meta}: no free address for {host} in {' and '.join(map(str, RANGES))}"
            errors.append(entry.meta.place.error(problem, "spec.addresses"))
        used.update(ips)
        given[_name(entry, host)] = ips
    made = tuple(_with_addresses(entry, given) for entry in entries)
    return made, {name: tuple(map(str, ips)) for name, ips in given.items() if ips}, tuple(errors)


def host_names(entry: ServiceEntry) -> Iterator[str]:
    """Its names in Remembered."""
    return (_name(entry, host) for host in entry.hosts)


def is_of_host(name: str) -> bool:
    """Whether a name in Remembered is of a host, and of no Service: theirs have one slash."""
    return name.count("/") > 1


def _name(entry: ServiceEntry, host: str) -> str:
    return f"{entry.meta.namespace}/{entry.meta.name}/{host}"


def _for_host(name: str, held: Collection[IP], used: Collection[IP]) -> Iterator[IP]:
    for network in RANGES:
        kept = next((ip for ip in held if ip in network and ip not in used), None)
        found = kept if kept is not None else probe(name, network, used)
        if found is not None:
            yield found


def _with_addresses(entry: ServiceEntry, given: dict[str, tuple[IP, ...]]) -> ServiceEntry:
    hosts = entry.unaddressed_hosts
    if not hosts:
        return entry
    made = {host: given[_name(entry, host)] for host in hosts}
    return dataclasses.replace(entry, allocated={**entry.allocated, **made})
