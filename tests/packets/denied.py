"""What `prefiltered` and `denials` have of a world."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_network

from redirect.denials import Denial, DenialKey, Prefiltered
from redirect.layout import address_key, parse_ip
from tests.packets.world import FAMILIES, World

NEVER_NS = 3600 * 10**9
SET = 1


def entries_of_denied(world: World, ifindex: int, elsewhere: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Map, key and value of each entry; `elsewhere`: an interface of another pod."""
    if not world.denied:
        return
    for entry in world.denied:
        for ip in (parse_ip(net.peer) for net in FAMILIES):
            bits = ip.max_prefixlen if entry.bits is None else entry.bits
            key = DenialKey.of(SET, entry.port, ip_network((ip, bits), strict=False))
            yield "denials", key.encode(), Denial(entry.is_denied).encode()
    due_ns = time.monotonic_ns() + NEVER_NS if world.samples_used else 0
    value = Prefiltered(elsewhere if world.is_denied_elsewhere else ifindex, SET, due_ns).encode()
    for text in (world.addr4, world.addr6):
        if text:
            yield "prefiltered", address_key(parse_ip(text)), value
