"""Rows of the guards, of packets that no program before them has had."""

from __future__ import annotations

from collections.abc import Iterator

from redirect.layout import GUARDS
from tests.packets.world import DRAIN, ENROLLED, FAMILIES, GUARDED, LEARN, NEXT, SHOT, Row, World
from tests.support import packets as pk


def rows() -> Iterator[Row]:
    worlds = {
        "captured": ("UNSEEN", SHOT, World(flags=GUARDED)),
        "captured by a build that knows of no guards": ("UNGUARDED", NEXT, World(flags=ENROLLED)),
        "learnt, and its time is over": ("UNSEEN", SHOT, World(flags=LEARN, learnt_until_s=1)),
        "learnt": ("UNGUARDED", NEXT, World(flags=LEARN)),
        "let go": ("UNGUARDED", NEXT, World(flags=DRAIN)),
        "nobody": ("UNGUARDED", NEXT, World(has_iface=False, has_pods=False)),
    }
    for guard in GUARDS:
        for name, (exit_name, verdict, world) in worlds.items():
            for net in FAMILIES:
                packet = pk.segment(net.pod, 40000, net.peer, 80)
                yield Row(f"{name} {net.name}", guard, exit_name, verdict, packet, world)
            packets = {
                "udp": pk.datagram(FAMILIES[0].pod, 40000, FAMILIES[0].peer, 53),
                "arp": pk.arp(FAMILIES[0].pod, FAMILIES[0].peer),
            }
            for kind, packet in packets.items():
                yield Row(f"{name} {kind}", guard, exit_name, verdict, packet, world)
