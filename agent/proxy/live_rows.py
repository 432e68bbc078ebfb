"""How live connections and tunnels are shown: to the admin server by one JSON row each, in metrics by their sums."""

from __future__ import annotations

from collections.abc import Iterable

from agent.identity.handshake import Secured
from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.identity import Identity
from agent.net.tunnel_link import TunnelLink
from agent.proxy.pods import LocalPod
from agent.proxy.registry import Live
from agent.telemetry import families
from agent.telemetry.metrics import Sample


def tunnel_row(
    link: TunnelLink, secured: Secured, direction: str, identity: Identity, at: SocketAddress
) -> dict[str, object]:
    """One HBONE connection: both proven identities, what TLS negotiated, and whether its tunnels are read.

    `at`: the other end's address. It tells which of many pods of one identity that is, and so its node.

    `unread_bytes` wait for applications here, `waiting` tunnels for the other end, which lets `window_left_bytes`
    more be sent; `crowded` is true when that is so little that new tunnels go elsewhere.
    """
    standstill = link.standstill
    return {
        "direction": direction,
        "identity": str(identity),
        "peer": str(secured.peer or ""),
        "peer_address": str(at),
        "suite": secured.suite,
        "group": secured.group,
        "tunnels": link.open_streams,
        "unread_bytes": standstill.unread_bytes,
        "waiting": standstill.waiting_tunnels,
        "window_left_bytes": standstill.window_left_bytes,
        "crowded": link.is_crowded,
    }


def link_samples(end: str, links: Iterable[TunnelLink]) -> list[Sample]:
    """What metrics have of the HBONE connections whose handshake is done. `end`: which end of them this is.

    In one pass, as it is asked for each second and nobody is served meanwhile: a worker may have thousands.
    """
    connections = streams = waiting = crowded = 0
    for link in links:
        if link.secured is not None:
            connections += 1
            streams += link.open_streams
            waiting += len(link.waiters)
            crowded += link.is_crowded
    return [
        (families.HBONE_CONNECTIONS, (end,), connections),
        (families.HBONE_STREAMS, (end,), streams),
        (families.HBONE_WAITING, (end,), waiting),
        (families.HBONE_CROWDED, (end,), crowded),
    ]


def connection_row(live: Live, pod: LocalPod | None) -> dict[str, object]:
    """A live connection with the pod it belongs to (its address, once it is let go).

    `client` is who an inbound one has proven to be; empty in plaintext, and for what a pod of ours dialled. `service`
    is the host name of the Service that the other end says was asked for, if the pod is one of its endpoints. One that
    waits for news of what it dials, or has asked for nothing yet, has WAITING or SOCKS5 for a `protocol`.
    """
    return {
        "pod": str(pod or live.pod),
        "direction": "outbound" if live.direction is Direction.OUTBOUND else "inbound",
        "src": str(live.source),
        "original_dst": str(live.original),
        "actual_dst": str(live.actual),
        "protocol": live.protocol,
        "service": live.service,
        "client": str((live.connection and live.connection.identity) or ""),
    }
