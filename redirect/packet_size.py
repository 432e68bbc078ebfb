"""How large a packet of a pod may be, in one family: what its own stack would send, and announce in its SYNs.

That follows from its interface and its routes; the node's end of its veth can only lessen it. One number for all
destinations: the least of any route by that interface, since smaller packets get everywhere. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HEADERS_BYTES = {4: 40, 6: 60}
"""IP and TCP without options, by IP version."""
LEAST_MSS_BYTES = 48
"""Linux announces and believes no less (TCP_MIN_SND_MSS)."""


@dataclass(frozen=True, slots=True)
class PacketSize:
    """`mtu_bytes`: the largest IP packet that leaves. `mss_bytes`: what is announced, the largest segment to come."""

    mtu_bytes: int
    mss_bytes: int

    def within(self, mtu_bytes: int, version: int) -> PacketSize:
        """The same behind another link of that MTU."""
        return PacketSize(
            min(self.mtu_bytes, mtu_bytes), min(self.mss_bytes, _largest_segment(mtu_bytes, version))
        )


@dataclass(frozen=True, slots=True)
class RouteSize:
    """What a route says about sizes in one family (`version` 4 or 6): `ip route ... mtu M advmss A`; 0: nothing."""

    version: int
    mtu_bytes: int = 0
    advmss_bytes: int = 0


def of_link(mtu_bytes: int, version: int) -> PacketSize:
    return PacketSize(mtu_bytes, _largest_segment(mtu_bytes, version))


def of_pod(link_mtu_bytes: int, version: int, routes: Iterable[RouteSize]) -> PacketSize:
    """By its interface and the routes that leave by it, those of other families left out."""
    own = [route for route in routes if route.version == version]
    mtu_bytes = min([link_mtu_bytes, *(route.mtu_bytes for route in own if route.mtu_bytes)])
    announced = [route.advmss_bytes for route in own if route.advmss_bytes]
    return PacketSize(mtu_bytes, min([_largest_segment(mtu_bytes, version), *announced]))


def _largest_segment(mtu_bytes: int, version: int) -> int:
    return max(mtu_bytes - HEADERS_BYTES[version], LEAST_MSS_BYTES)
