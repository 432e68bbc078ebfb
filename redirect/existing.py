"""Connections that a pod had before it was captured: noted, so that they may go on as they are.

They pass until they close, their port is used again, or their time is over, which the programs look at: so it is over
also when nobody is left to end them. `keep` is called just before the pod is captured, `look` now and then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from redirect import netns, sock_diag
from redirect.desired import DesiredPod
from redirect.layout import HOOK_FROM_POD, HOOK_TO_POD, IP, Flag, FlowKey, IfaceEntry
from redirect.locate import leads_behind, namespaces_behind
from redirect.maps import Maps

LEAD_NS = 1_000_000_000
"""So long before their time is over connections are reset: their resets must still pass."""
NOBODYS: Mapping[int, float] = MappingProxyType({})
_TCP = 6


@dataclass(frozen=True, slots=True)
class Kept:
    """Those of the pod behind an interface that are open; `until_ns`: of the monotonic clock, 0: until they close.

    `ended`: how many were reset just now, because their time is over.
    """

    ifindex: int
    count: int
    until_ns: int
    ended: int


def keep_fresh(
    maps: Maps, pods: Iterable[DesiredPod], ifaces: Mapping[int, IfaceEntry], times_s: Mapping[int, float]
) -> list[str]:
    """Lets what those of the pods have open pass that are captured now, each for its time (by ifindex); lines about it.

    `ifaces`: as the kernel has them. One that is closed off without addresses was not the pod's yet.
    """
    known = {ifindex for ifindex in times_s if ifindex in ifaces and ifaces[ifindex].addresses}
    fresh = [pod for pod in pods if pod.ifindex in times_s and pod.ifindex not in known]
    try:
        namespaces = namespaces_behind([pod.ifindex for pod in fresh])
    except OSError as error:
        return [f"open connections of {pod.ifname} will be reset: {error}" for pod in fresh]
    return [keep(maps, pod, times_s[pod.ifindex], namespaces.get(pod.ifindex)) for pod in fresh]


def keep(maps: Maps, pod: DesiredPod, for_s: float, namespace: Path | None) -> str:
    """Lets a pod's open TCP connections pass, in its namespace; one line about it, whatever comes of it."""
    if namespace is None:
        return f"open connections of {pod.ifname} will be reset: its namespace was not found"
    try:
        kept = allow(maps, pod.addresses, namespace, for_s)
    except OSError as error:
        return f"open connections of {pod.ifname} will be reset: they cannot be listed ({error})"
    return f"keep {kept} open {'connection' if kept == 1 else 'connections'} of {pod.ifname}" + (
        "" if math.isinf(for_s) else f" for {for_s:g} s"
    )


def allow(maps: Maps, addresses: Collection[IP], pod_netns: Path, for_s: float = math.inf) -> int:
    """Lets the open TCP connections of these addresses in a pod's namespace pass; how many. Raises OSError."""
    with netns.entered(pod_netns):
        found = [s for s in sock_diag.tcp_sockets() if s.local in addresses and s.is_open]
    maps.put_passthrough((flow for s in found for flow in _both_directions(s)), _until_ns(for_s))
    return len(found)


def settle(
    maps: Maps, pods: Iterable[DesiredPod], before: Mapping[int, IfaceEntry], times_s: Mapping[int, float]
) -> None:
    """What began while pods were learnt, now that they are captured: kept for a time as of `keep_fresh`, or captured.

    `before`: the interfaces as the kernel had them until now.
    """
    until_ns = {
        address: _until_ns(times_s[pod.ifindex]) if pod.ifindex in times_s else None
        for pod in pods
        if pod.ifindex in before and Flag.LEARN in before[pod.ifindex].flags
        for address in pod.addresses
    }
    for flow, _ in [*maps.passthrough()] if until_ns else ():
        pod_address = flow.source if flow.hook == HOOK_FROM_POD else flow.destination
        if pod_address not in until_ns:
            continue
        kept_ns = until_ns[pod_address]
        if kept_ns is None:
            maps.delete_passthrough(flow)
        else:
            maps.put_passthrough([flow], kept_ns)


def look(maps: Maps, now_ns: int) -> tuple[Kept, ...]:
    """What is left of them, pod by pod: those that have ended are forgotten, those whose time is over are reset.

    Nothing is said of pods whose namespace is not found. Raises OSError.
    """
    noted = dict(maps.passthrough())
    if not noted:
        return ()
    ifaces = maps.ifaces()
    owners = {address: ifindex for ifindex, entry in ifaces.items() for address in entry.addresses}
    by_owner: dict[int, dict[FlowKey, int]] = {}
    for flow, until_ns in noted.items():
        pod = flow.source if flow.hook == HOOK_FROM_POD else flow.destination
        by_owner.setdefault(owners.get(pod, 0), {})[flow] = until_ns
    left = by_owner.pop(0, {})
    # Of a pod that is learnt the addresses are not known yet.
    for flow in left if not any(Flag.LEARN in entry.flags for entry in ifaces.values()) else ():
        maps.delete_passthrough(flow)
    namespaces = namespaces_behind(by_owner)
    return tuple(
        each
        for index, flows in by_owner.items()
        if index in namespaces and leads_behind(namespaces[index], index)
        for each in _look_at(maps, index, namespaces[index], flows, now_ns)
    )


def _look_at(
    maps: Maps, ifindex: int, namespace: Path, noted: Mapping[FlowKey, int], now_ns: int
) -> Iterator[Kept]:
    due = {flow for flow, until_ns in noted.items() if until_ns and until_ns - LEAD_NS <= now_ns}
    with netns.entered(namespace):
        found = {s: _both_directions(s)[0] for s in sock_diag.tcp_sockets()}
        done = sock_diag.destroy_where(lambda s: s.is_open and _both_directions(s)[0] in due) if due else {}
    # Those that are destroyed too are forgotten with the next look: their resets are still on their way.
    present = {direction for s in found for direction in _both_directions(s)}
    for flow in noted.keys() - present:
        maps.delete_passthrough(flow)
    count, ended = sum(1 for s, flow in found.items() if s.is_open and flow in noted), sum(done.values())
    if count:
        yield Kept(ifindex, count - ended, max(noted.values()), ended)


def _until_ns(for_s: float) -> int:
    return 0 if math.isinf(for_s) else time.monotonic_ns() + int(for_s * 1e9)


def _both_directions(socket: sock_diag.TcpSocket) -> tuple[FlowKey, FlowKey]:
    """As from_pod sees the pod's packets, and as to_pod sees those that come in."""
    pod, peer = (socket.local, socket.local_port), (socket.remote, socket.remote_port)
    return (
        FlowKey(pod[0], peer[0], pod[1], peer[1], _TCP, HOOK_FROM_POD),
        FlowKey(peer[0], pod[0], peer[1], pod[1], _TCP, HOOK_TO_POD),
    )
