"""Stable virtual IPs for Services that come without a clusterIP: same Service, same address, on every run.

The first choice is a hash of the Service's name in the range, then the next free address; what was given is
remembered by the caller (`state-dir/vips.json`) and kept while the Service exists. A Service without a remembered
address never takes one that another manifest names. Pure.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from agent.controlplane.read.objects import Service
from agent.controlplane.read.yaml_tree import ManifestError
from agent.model.address import CIDR, IP

Remembered = Mapping[str, tuple[str, ...]]
"""`namespace/name` of a Service -> its allocated addresses, as text."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """All Services with addresses; what to remember; Services that could get none, with the reason."""

    services: tuple[Service, ...]
    remembered: Remembered
    errors: tuple[ManifestError, ...]


def allocate(
    services: Collection[Service], ranges: tuple[CIDR, ...], remembered: Remembered, taken: Iterable[IP]
) -> Allocation:
    """Addresses for every Service that lacks them. `taken`: addresses that others have, e.g. pods."""
    used = set(taken) | {ip for service in services for ip in service.cluster_ips or ()}
    wanting = sorted((s for s in services if s.cluster_ips is None), key=lambda s: s.meta.key)
    given: dict[str, tuple[str, ...]] = {}
    errors: list[ManifestError] = []
    # Those that are remembered come first, so that a newcomer cannot take an address they hold.
    for service in sorted(wanting, key=lambda s: remembered_name(s) not in remembered):
        try:
            ips = _for_service(service, ranges, remembered.get(remembered_name(service), ()), used)
        except ManifestError as error:
            errors.append(error)
            continue
        used.update(ips)
        given[remembered_name(service)] = tuple(map(str, ips))
    return Allocation(
        tuple(
            _with_addresses(s, given)
            for s in services
            if s.cluster_ips is not None or remembered_name(s) in given
        ),
        given,
        tuple(errors),
    )


def remembered_name(service: Service) -> str:
    """Its name in Remembered."""
    return f"{service.meta.namespace}/{service.meta.name}"


def _with_addresses(service: Service, given: Remembered) -> Service:
    if service.cluster_ips is not None:
        return service
    ips = tuple(ip_address(text) for text in given[remembered_name(service)])
    families = service.families or tuple(f"IPv{ip.version}" for ip in ips)
    return dataclasses.replace(service, cluster_ips=ips, families=families)


def _for_service(
    service: Service, ranges: tuple[CIDR, ...], before: tuple[str, ...], used: set[IP]
) -> tuple[IP, ...]:
    held = [ip_address(text) for text in before]
    result = []
    for network in _ranges_for(service, ranges):
        kept = next((ip for ip in held if ip in network and ip not in used), None)
        if kept is None:
            kept = probe(remembered_name(service), network, used)
        if kept is None:
            raise service.meta.place.error(f"{service.meta}: no free address in {network}", "spec.clusterIP")
        result.append(kept)
    return tuple(result)


def _ranges_for(service: Service, ranges: tuple[CIDR, ...]) -> tuple[CIDR, ...]:
    """The ranges this Service draws from: one, or one per family it asks for."""
    by_family = {f"IPv{network.version}": network for network in ranges}
    if service.families:
        wanted = service.families
    elif service.family_policy in ("PreferDualStack", "RequireDualStack"):
        wanted = tuple(by_family)
    else:
        wanted = tuple(by_family)[:1]
    missing = [family for family in wanted if family not in by_family]
    if missing or not wanted or (service.family_policy == "RequireDualStack" and len(wanted) < 2):
        family = missing[0] if missing else "second" if wanted else "any"
        raise service.meta.place.error(
            f"{service.meta}: --service-cidr has no range for the {family} family; give clusterIP or widen it",
            "spec.clusterIP",
        )
    return tuple(by_family[family] for family in wanted)


def probe(name: str, network: CIDR, used: Collection[IP]) -> IP | None:
    """The place in the range that the name hashes to, or the next free one; never the first address nor the last."""
    usable = min(network.num_addresses - 2, 2**48)
    digest = hashlib.sha256(f"{name} IPv{network.version}".encode()).digest()
    start = int.from_bytes(digest[:8], "big")
    for step in range(min(max(usable, 0), len(used) + 1)):
        candidate = network[1 + (start + step) % usable]
        if candidate not in used:
            return candidate
    return None
