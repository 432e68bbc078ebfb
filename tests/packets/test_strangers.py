"""How many connections an address may open to a pod's tunnel port before it has proven who it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from agent.model.address import IP
from agent.model.address import parse_ip as agent_ip
from agent.net.member_table import MEMBER, PLACES, MemberTable, place_of
from redirect import sys_bpf
from redirect.layout import MAPS, address_key, parse_ip
from redirect.limits import Stranger
from tests.packets.rig import OTHER_IFINDEX, Rig
from tests.packets.world import FAMILIES, FORWARDED, SHOT, V4, V6, Family, World
from tests.support import packets as pk

pytestmark = pytest.mark.kernel
HBONE, BURST = 15008, 4
EVERY_NS = 1_000_000_000
LIMITED = World(stranger_limit=(EVERY_NS, BURST))
EITHER = pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
OTHER_PEER = {"v4": "10.88.0.8", "v6": "fd88::8"}


@pytest.fixture
def members(rig: Rig) -> Iterator[MemberTable]:
    """The table as a worker has it; empty again at the end."""
    table = MemberTable(os.dup(rig.maps["members"]))
    try:
        yield table
    finally:
        table.close()
        for number, member in sys_bpf.map_items(rig.maps["members"], 4, MEMBER.size):
            if any(member):
                sys_bpf.map_update(rig.maps["members"], number, bytes(MEMBER.size))


def passes(rig: Rig, net: Family, source: str = "", port: int = 40000) -> bool:
    packet = pk.segment(source or net.peer, port, net.pod, HBONE)
    seen = rig.play("to_pod", packet, ingress_ifindex=FORWARDED)
    (name,) = seen.counted
    assert (name == "to_pod/STRANGER_TOO_FAST") == (seen.verdict == SHOT), name
    return seen.verdict != SHOT


def used(rig: Rig, address: str, ifindex: int) -> int | None:
    """Until when an address has used up its rate."""
    key = Stranger(address_key(parse_ip(address)), ifindex).encode()
    raw = sys_bpf.map_lookup(rig.maps["strangers"], key, MAPS["strangers"].value_bytes)
    return None if raw is None else int.from_bytes(raw, "little")


@EITHER
def test_a_stranger_opens_so_many_at_once_and_others_are_not_its_business(rig: Rig, net: Family) -> None:
    with rig.world(LIMITED):
        answers = [passes(rig, net, port=40000 + number) for number in range(BURST + 3)]
        assert answers == [True] * BURST + [False] * 3
        assert passes(rig, net, OTHER_PEER[net.name])


@EITHER
def test_what_was_dropped_passes_when_it_comes_again(rig: Rig, net: Family) -> None:
    """What it was is not counted: else a client that tries again would never get through."""
    every_ns = 400_000_000  # longer than a busy machine keeps a test waiting between two lines
    with rig.world(World(stranger_limit=(every_ns, 1))):
        assert passes(rig, net)
        until_ns = used(rig, net.peer, rig.ifindex)
        assert until_ns is not None
        tries = 0
        while not passes(rig, net):
            tries += 1
            assert time.monotonic_ns() < until_ns + 5 * 10**9
        assert tries and time.monotonic_ns() >= until_ns


def test_whoever_has_a_whole_network_of_addresses_is_limited_too(rig: Rig) -> None:
    """A /64 is one machine's, and more addresses than can be told; IPv4 has no such."""
    every_ns, tries, worth = 4_000_000_000, 200, 32
    with rig.world(World(stranger_limit=(every_ns, 1))):
        began_ns = time.monotonic_ns()
        passed = sum(passes(rig, V6, f"fd88:0:0:1::{number:x}") for number in range(1, tries + 1))
        took_ns = time.monotonic_ns() - began_ns
        assert worth <= passed <= worth + took_ns // (every_ns // worth) + 1 < tries
        assert used(rig, f"fd88:0:0:1::{tries:x}", rig.ifindex) is None, "it takes no room of others"
        assert passes(rig, V6, "fd88:0:0:2::1")
        assert all(passes(rig, V4, f"10.88.1.{number}") for number in range(1, tries + 1))


def test_the_limit_is_of_one_pod(rig: Rig) -> None:
    with rig.world(LIMITED):
        sys_bpf.map_update(
            rig.maps["strangers"],
            Stranger(address_key(parse_ip(V4.peer)), OTHER_IFINDEX).encode(),
            (time.monotonic_ns() + 3600 * 10**9).to_bytes(8, "little"),
        )
        assert passes(rig, V4)
        assert used(rig, V4.peer, rig.ifindex) is not None


@EITHER
def test_who_has_proven_itself_is_not_limited(rig: Rig, net: Family, members: MemberTable) -> None:
    with rig.world(LIMITED):
        while passes(rig, net):
            pass
        members.note(agent_ip(net.peer), 60.0)
        assert all(passes(rig, net, port=40000 + number) for number in range(3 * BURST))
        other = OTHER_PEER[net.name]
        assert [passes(rig, net, other) for _ in range(BURST + 1)] == [True] * BURST + [False]


@EITHER
def test_a_proof_counts_for_a_time(rig: Rig, net: Family, members: MemberTable) -> None:
    with rig.world(LIMITED):
        while passes(rig, net):
            pass
        members.note(agent_ip(net.peer), -1.0)
        assert not passes(rig, net)


def test_an_address_is_found_at_either_of_its_places(rig: Rig, members: MemberTable) -> None:
    """Addresses that meet in the table: the two that count for longest are in it."""
    meeting = those_that_meet(V4.peer, 3)
    with rig.world(LIMITED):
        for number, ip in enumerate(meeting):
            members.note(ip, 60.0 + number)
        found = [sum(passes(rig, V4, str(ip)) for _ in range(2 * BURST)) for ip in meeting]
    assert found == [BURST, 2 * BURST, 2 * BURST]


def test_who_proves_itself_again_has_one_place(rig: Rig, members: MemberTable) -> None:
    one, other = those_that_meet(V6.peer, 2)
    for ip in (one, other, other, one, one):
        members.note(ip, 60.0)
    raw = [value for _, value in sys_bpf.map_items(rig.maps["members"], 4, MEMBER.size) if any(value)]
    assert sorted(value[:16] for value in raw) == sorted(ip.packed for ip in (one, other))


def those_that_meet(address: str, count: int) -> list[IP]:
    """An address, and the next ones that have the same places."""
    ip = agent_ip(address)
    wanted, found = place_of(address_key(parse_ip(address))), [ip]
    while len(found) < count:
        ip = agent_ip(str(ip + 1))
        if place_of(address_key(parse_ip(str(ip)))) == wanted:
            found.append(ip)
    return found


def test_a_table_that_is_no_table_is_refused(rig: Rig) -> None:
    for name in ("stats", "pods"):
        with pytest.raises(OSError, match="Errno"):
            MemberTable(os.dup(rig.maps[name]))
    assert MAPS["members"].max_entries == PLACES
