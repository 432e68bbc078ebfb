"""Connections that a pod had before it was captured: noted, so that they may go on as they are.

They pass until they close, or until their port is used again. Call just before the pod is captured.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from redirect import netns, sock_diag
from redirect.desired import DesiredPod
from redirect.layout import HOOK_FROM_POD, HOOK_TO_POD, IP, FlowKey
from redirect.locate import namespace_behind
from redirect.maps import Maps

_TCP = 6


def keep(maps: Maps, pod: DesiredPod) -> str:
    """Lets a pod's open TCP connections pass, wherever its namespace is; one line about it, whatever comes of it."""
    try:
        namespace = namespace_behind(pod.ifindex)
        if namespace is None:
            return f"open connections of {pod.ifname} will be reset: its namespace was not found"
        kept = allow(maps, pod.addresses, namespace)
    except OSError as error:
        return f"open connections of {pod.ifname} will be reset: they cannot be listed ({error})"
    return f"keep {kept} open connections of {pod.ifname}"


def allow(maps: Maps, addresses: Collection[IP], pod_netns: Path) -> int:
    """Lets the open TCP connections of these addresses in a pod's namespace pass; how many. Raises OSError."""
    with netns.entered(pod_netns):
        found = [s for s in sock_diag.tcp_sockets() if s.local in addresses and s.is_open]
    maps.put_passthrough((flow for s in found for flow in _both_directions(s)), time.monotonic_ns())
    return len(found)


def _both_directions(socket: sock_diag.TcpSocket) -> tuple[FlowKey, FlowKey]:
    """As from_pod sees the pod's packets, and as to_pod sees those that come in."""
    pod, peer = (socket.local, socket.local_port), (socket.remote, socket.remote_port)
    return (
        FlowKey(pod[0], peer[0], pod[1], peer[1], _TCP, HOOK_FROM_POD),
        FlowKey(peer[0], pod[0], peer[1], pod[1], _TCP, HOOK_TO_POD),
    )
