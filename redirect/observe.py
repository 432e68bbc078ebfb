"""Reads what the kernel has into an `Observed`: maps, attachments, interfaces. Writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from redirect import rtnetlink
from redirect.attach import TCX_TYPES, Attachments
from redirect.desired import Desired
from redirect.layout import IP, IfaceEntry, PodEntry
from redirect.maps import Maps
from redirect.rtnetlink import LinkRow

POD_PROGRAMS = ("from_pod", "to_pod")


@dataclass(frozen=True, slots=True)
class Observed:
    """The kernel side of an instance at one moment, as far as pods are concerned.

    `attached` are the (ifindex, program) that run this generation's program, `inner` those of the devices that lead
    into the private namespaces; `stale` those of pods that run an older one, or whose interface is gone. `links`:
    what exists in this namespace, by ifindex. `inner_mtu_bytes`: that of the devices that lead into the private
    namespaces, the smaller; 0: there are none. `behind`: those of the attached and the inner that have only the
    packets which programs of others let them, and who those are. `provisional`: those that are filters where there
    are to be links. `owners`: the notes of whoever captured them, by ifindex. Unless it `is_whole` only some interfaces
    were looked at, and nothing is known of others.
    """

    pods: Mapping[IP, PodEntry] = field(default_factory=dict)
    ifaces: Mapping[int, IfaceEntry] = field(default_factory=dict)
    host_addresses: frozenset[IP] = frozenset()
    attached: frozenset[tuple[int, str]] = frozenset()
    stale: frozenset[tuple[int, str]] = frozenset()
    links: Mapping[int, LinkRow] = field(default_factory=dict)
    inner_mtu_bytes: int = 0
    inner: frozenset[tuple[int, str]] = frozenset()
    behind: Mapping[tuple[int, str], str] = field(default_factory=dict)
    provisional: frozenset[tuple[int, str]] = frozenset()
    owners: Mapping[int, str] = field(default_factory=dict)
    is_whole: bool = True

    @property
    def interfaces(self) -> dict[int, str]:
        """ifindex -> name"""
        return names(self.links)


def observe(maps: Maps, attachments: Attachments) -> Observed:
    """In the node's network namespace."""
    current = {program: attachments.program_id(program) for program in TCX_TYPES}
    links, conf = rtnetlink.links(), maps.conf()
    inner = [links[index] for index in (conf.pod_side_ifindex, conf.net_side_ifindex) if index in links]
    all_ours = attachments.attached()
    running = frozenset(place for place, each in all_ours.items() if each.program_id == current[place[1]])
    pods = frozenset(place for place in all_ours if place[1] in POD_PROGRAMS)
    return Observed(
        pods=maps.pods(),
        ifaces=maps.ifaces(),
        host_addresses=maps.host_addresses(),
        attached=running & pods,
        stale=pods - running,
        links=links,
        inner_mtu_bytes=min((link.mtu_bytes for link in inner), default=0),
        inner=running - pods,
        provisional=frozenset(place for place in running if all_ours[place].is_provisional),
        owners=maps.owners(),
        behind={place: all_ours[place].ahead for place in sorted(at for at in running if all_ours[at].ahead)},
    )


def observe_some(
    maps: Maps, attachments: Attachments, ifindexes: Collection[int], desired: Desired
) -> tuple[Observed, Desired]:
    """The same of some interfaces, and what is desired of them: as long as it takes for these, however many others.

    Addresses of the node are left out of both. An address counts that one of these has, or is to have.
    """
    wanted = tuple(pod for pod in desired.pods if pod.ifindex in ifindexes)
    others = {address for pod in desired.pods if pod.ifindex not in ifindexes for address in pod.addresses}
    rows = {index: row for index in sorted(ifindexes) if (row := rtnetlink.link(index)) is not None}
    ifaces = {index: entry for index in sorted(ifindexes) if (entry := maps.iface(index)) is not None}
    addresses = {address for pod in wanted for address in pod.addresses}
    addresses |= {address for entry in ifaces.values() for address in entry.addresses}
    pods = {address: found for address in addresses - others if (found := maps.pod(address)) is not None}
    owners = {index: text for index in sorted(ifindexes) if (text := maps.owner(index))}
    current = {program: attachments.program_id(program) for program in POD_PROGRAMS}
    ours = {place: each for index in ifindexes for place, each in attachments.attached_at(index).items()}
    running = frozenset(place for place, each in ours.items() if each.program_id == current[place[1]])
    conf = maps.conf()
    inner = map(rtnetlink.link, (conf.pod_side_ifindex, conf.net_side_ifindex))
    observed = Observed(
        pods=pods,
        ifaces=ifaces,
        attached=running,
        stale=frozenset(ours) - running,
        links=rows,
        inner_mtu_bytes=min((link.mtu_bytes for link in inner if link is not None), default=0),
        owners=owners,
        behind={place: ours[place].ahead for place in sorted(running) if ours[place].ahead},
        is_whole=False,
    )
    return observed, Desired(wanted, frozenset())


def interfaces() -> dict[int, str]:
    """ifindex -> name, in the calling thread's network namespace."""
    return names(rtnetlink.links())


def names(links: Mapping[int, LinkRow]) -> dict[int, str]:
    return {link.ifindex: link.ifname for link in links.values()}
