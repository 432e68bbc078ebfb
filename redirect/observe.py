"""Reads what the kernel has into an `Observed`: maps, attachments, interfaces. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from redirect import rtnetlink
from redirect.attach import TCX_TYPES, Attachments
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
    packets which programs of others let them, and who those are. `owners`: the notes of whoever captured them, by
    ifindex.
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
    owners: Mapping[int, str] = field(default_factory=dict)

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
        owners=maps.owners(),
        behind={place: all_ours[place].ahead for place in sorted(running) if all_ours[place].ahead},
    )


def interfaces() -> dict[int, str]:
    """ifindex -> name, in the calling thread's network namespace."""
    return names(rtnetlink.links())


def names(links: Mapping[int, LinkRow]) -> dict[int, str]:
    return {link.ifindex: link.ifname for link in links.values()}
