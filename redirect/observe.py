"""Reads what the kernel has into an `Observed`: maps, attachments, interfaces. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from redirect import rtnetlink
from redirect.attach import Attachments
from redirect.layout import IP, IfaceEntry, PodEntry
from redirect.maps import Maps
from redirect.rtnetlink import LinkRow

POD_PROGRAMS = ("from_pod", "to_pod")


@dataclass(frozen=True, slots=True)
class Observed:
    """The kernel side of an instance at one moment, as far as pods are concerned.

    `attached` are the (ifindex, program) that run this generation's program; `stale` those of ours that run an
    older one, or whose interface is gone. `links`: what exists in this namespace, by ifindex. `inner_mtu_bytes`:
    that of the devices that lead into the private namespaces, the smaller; 0: there are none.
    """

    pods: Mapping[IP, PodEntry] = field(default_factory=dict)
    ifaces: Mapping[int, IfaceEntry] = field(default_factory=dict)
    host_addresses: frozenset[IP] = frozenset()
    attached: frozenset[tuple[int, str]] = frozenset()
    stale: frozenset[tuple[int, str]] = frozenset()
    links: Mapping[int, LinkRow] = field(default_factory=dict)
    inner_mtu_bytes: int = 0

    @property
    def interfaces(self) -> dict[int, str]:
        """ifindex -> name"""
        return names(self.links)


def observe(maps: Maps, attachments: Attachments) -> Observed:
    """In the node's network namespace."""
    current = {program: attachments.program_id(program) for program in POD_PROGRAMS}
    links, conf = rtnetlink.links(), maps.conf()
    inner = [links[index] for index in (conf.pod_side_ifindex, conf.net_side_ifindex) if index in links]
    ours = {place: number for place, number in attachments.attached().items() if place[1] in current}
    return Observed(
        pods=maps.pods(),
        ifaces=maps.ifaces(),
        host_addresses=maps.host_addresses(),
        attached=frozenset(place for place, number in ours.items() if number == current[place[1]]),
        stale=frozenset(place for place, number in ours.items() if number != current[place[1]]),
        links=links,
        inner_mtu_bytes=min((link.mtu_bytes for link in inner), default=0),
    )


def interfaces() -> dict[int, str]:
    """ifindex -> name, in the calling thread's network namespace."""
    return names(rtnetlink.links())


def names(links: Mapping[int, LinkRow]) -> dict[int, str]:
    return {link.ifindex: link.ifname for link in links.values()}
