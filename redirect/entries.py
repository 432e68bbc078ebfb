"""What a captured pod is in the maps, and what pod an entry of the maps is: `DesiredPod` to entries and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from redirect import packet_size
from redirect.desired import Bridge, DesiredPod, NextHop
from redirect.layout import (
    IP,
    NO_ADDRESS,
    NO_MAC,
    Flag,
    IfaceEntry,
    PodEntry,
    address_key,
    mask,
    prefix_bits,
)
from redirect.packet_size import PacketSize
from redirect.rtnetlink import DEFAULT_MTU_BYTES, NO_QUEUE, LinkRow

_WITHOUT_QUEUE = (NO_QUEUE, "noop")
"""`noop` is what a device has that was never up."""


def iface_entry(pod: DesiredPod) -> IfaceEntry:
    """What the kernel is to know about a pod's interface."""
    flags = Flag(pod.flags)
    if flags & Flag.ENROLLED:
        flags |= Flag.GUARDED
    entry = IfaceEntry(flags, _key(pod.address(4)), _key(pod.address(6)), mac=pod.mac)
    if pod.bridge is None:
        return entry
    masks, gateways = {4: NO_ADDRESS, 6: NO_ADDRESS}, {4: NO_ADDRESS, 6: NO_ADDRESS}
    for hop in pod.hops:
        masks[hop.version] = mask(hop.prefix_bits, hop.version)
        gateways[hop.version] = _key(hop.gateway)
    return replace(
        entry,
        mask4=masks[4],
        mask6=masks[6],
        gateway4=gateways[4],
        gateway6=gateways[6],
        bridge_ifindex=pod.bridge.ifindex,
        bridge_mac=pod.bridge.mac,
    )


def pod_entry(pod: DesiredPod, address: IP, link: LinkRow) -> PodEntry:
    """What the kernel is to know about one of a pod's addresses. `link`: the node's end of its veth."""
    hop = pod.hop(address.version)
    size = hop.size.within(link.mtu_bytes, address.version)
    flags = Flag(pod.flags) & ~(Flag.HONEST | Flag.BYPASS | Flag.DNS | Flag.GUARDED) | (
        Flag(0) if link.qdisc in _WITHOUT_QUEUE else Flag.QUEUED
    )
    bridge = pod.bridge.ifindex if pod.bridge is not None else 0
    return PodEntry(flags, pod.ifindex, pod.mac, hop.mac, size.mtu_bytes, size.mss_bytes, bridge)


@dataclass(frozen=True, slots=True)
class Entries:
    """All of one pod: of its interface, of each address. `mtu_bytes`: of its largest packets, 0: of none."""

    iface: IfaceEntry
    pods: tuple[tuple[IP, PodEntry], ...]
    mtu_bytes: int


_LONGEST = 16384
_made: dict[int, tuple[DesiredPod, LinkRow, Entries]] = {}


def entries_of(pod: DesiredPod, link: LinkRow) -> Entries:
    """As `iface_entry` and `pod_entry`. Of hundreds most are compared with the kernel's each time and never change."""
    last = _made.get(pod.ifindex)
    if last is not None and last[1] == link and last[0] == pod:
        return last[2]
    made = Entries(
        iface_entry(pod),
        tuple((address, pod_entry(pod, address, link)) for address in pod.addresses),
        max((hop.size.within(link.mtu_bytes, hop.version).mtu_bytes for hop in pod.hops), default=0),
    )
    if len(_made) > _LONGEST:
        _made.clear()
    _made[pod.ifindex] = pod, link, made
    return made


def captured_pod(
    ifindex: int, ifname: str, entry: IfaceEntry, pods: Mapping[IP, PodEntry], owner: str = ""
) -> DesiredPod:
    """The pod of an interface. An address without an entry of its own (its capture failed half way) has no MACs."""
    known = {address: pods[address] for address in entry.addresses if address in pods}
    mac = next((pod.pod_mac for pod in known.values()), NO_MAC)
    hops = tuple(_hop(address, entry, known.get(address)) for address in entry.addresses)
    bridge = Bridge(entry.bridge_ifindex, entry.bridge_mac) if entry.bridge_ifindex else None
    flags = entry.flags & ~Flag.GUARDED  # which every captured pod has
    return DesiredPod(ifindex, ifname, entry.addresses, mac, hops, flags, bridge, owner)


def captured_pods(
    present: Mapping[int, str],
    ifaces: Mapping[int, IfaceEntry],
    pods: Mapping[IP, PodEntry],
    owners: Mapping[int, str],
) -> Iterator[DesiredPod]:
    """Those that are enrolled by the maps; `present`: names of interfaces by ifindex, empty where one is gone."""
    for ifindex, entry in sorted(ifaces.items()):
        if entry.flags & Flag.ENROLLED:
            yield captured_pod(ifindex, present.get(ifindex, ""), entry, pods, owners.get(ifindex, ""))


def _hop(address: IP, entry: IfaceEntry, pod: PodEntry | None) -> NextHop:
    netmask = entry.mask4 if address.version == 4 else entry.mask6
    if pod is not None:
        mac, size = pod.hop_mac, PacketSize(pod.mtu_bytes, pod.mss_bytes)
    else:
        mac, size = NO_MAC, packet_size.of_link(DEFAULT_MTU_BYTES, address.version)
    bits = prefix_bits(netmask, address.version) if entry.bridge_ifindex else 0
    return NextHop(address.version, mac, size, entry.gateway(address.version), bits)


def _key(address: IP | None) -> bytes:
    return address_key(address) if address is not None else NO_ADDRESS
