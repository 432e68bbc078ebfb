"""Whose turn it is: connections of one pair of addresses go to one owner after the other, at each listener."""

from __future__ import annotations

import random
import socket
from collections import Counter
from dataclasses import replace

import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.model.listener import HBONE, LISTENERS, OUTBOUND, PLAINTEXT, Listener
from agent.proxy.own_share import owner_of
from redirect.layout import SLOTS
from tests.packets.rig import Rig
from tests.packets.sockets import cookie
from tests.packets.test_holding import spread
from tests.packets.test_lookups import Lookup, look_up
from tests.packets.world import FAMILIES, V4, Family, World
from tests.support.packets import TCP

pytestmark = pytest.mark.kernel
OWNERS = 4
KEY = 0x5EED1234
EVERY_LISTENER = pytest.mark.parametrize("row", LISTENERS, ids=lambda row: row.name)


def owner(rig: Rig, row: Listener, net: Family, takers: list[socket.socket], remote_port: int = 40004) -> int:
    """Whose listener a connection is given to."""
    look = Lookup(f"lookup_{row.side.value}_side", TCP, row.port, "PICKED", 1)
    verdict, picked, moved = look_up(rig, look, net, remote_port)
    assert (verdict, moved) == (1, {f"{look.program}/PICKED": 1})
    mine = takers[SLOTS[row.name] * OWNERS :][:OWNERS]
    return [cookie(sock) for sock in mine].index(picked)


@EVERY_LISTENER
@pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
def test_a_busy_pair_has_every_worker_by_turns(rig: Rig, row: Listener, net: Family) -> None:
    with rig.world(World(owners=0, takers=OWNERS)), spread(rig, OWNERS) as (_, takers):
        found = [owner(rig, row, net, takers, remote_port=40000 + number * 37) for number in range(8)]
    first = found[0]
    assert found == [(first + number) % OWNERS for number in range(8)]


def test_pairs_begin_with_different_workers(rig: Rig) -> None:
    """Else the first worker would have all those pairs that have one connection."""
    (row,) = (row for row in LISTENERS if row.name == "hbone")
    with rig.world(World(owners=0, takers=OWNERS)), spread(rig, OWNERS) as (_, takers):
        pairs = [replace(V4, peer=f"10.9.{number}.1") for number in range(120)]
        firsts = Counter(owner(rig, row, net, takers) for net in pairs)
    assert all(firsts[number] > 120 / OWNERS / 3 for number in range(OWNERS)), firsts


def test_what_is_never_held_goes_by_turns_where_syns_are_held(rig: Rig) -> None:
    """What may be held goes to the owner of its ring, and so the same ports to the same owner."""
    hbone, plaintext = (next(row for row in LISTENERS if row.name == name) for name in ("hbone", "plaintext"))
    with rig.world(World(owners=OWNERS, takers=OWNERS)), spread(rig, OWNERS) as (_, takers):
        assert len({owner(rig, hbone, V4, takers) for _ in range(OWNERS)}) == OWNERS
        assert len({owner(rig, plaintext, V4, takers) for _ in range(OWNERS)}) == 1


@pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
def test_a_worker_can_tell_by_its_port_whom_its_own_dial_comes_to(rig: Rig, net: Family) -> None:
    """The program's choice and the worker's are one; every worker has ports, and others go by turns as ever."""
    rng = random.Random(5)
    by_ports = World(owners=0, takers=OWNERS, plaintext_by_ports=True, choice_key=KEY)
    with rig.world(by_ports), spread(rig, OWNERS) as (_, takers):
        found = Counter[int]()
        for _ in range(60):
            port, row = rng.randrange(1024, 65536), replace(PLAINTEXT, port=rng.randrange(1, 15000))
            ends = SocketAddress(parse_ip(net.peer), port), SocketAddress(parse_ip(net.pod), row.port)
            chosen = owner(rig, row, net, takers, remote_port=port)
            assert chosen == owner_of(*ends, OWNERS, KEY)
            found[chosen] += 1
        for row in (OUTBOUND, HBONE):
            assert len({owner(rig, row, net, takers) for _ in range(OWNERS)}) == OWNERS
    assert all(found[number] > 60 / OWNERS / 3 for number in range(OWNERS)), found


@pytest.mark.parametrize("is_held", [False, True], ids=["plaintext", "held"])
def test_nobody_can_choose_his_ports_so_that_one_worker_has_them_all(rig: Rig, is_held: bool) -> None:
    """Those that would lead to one without the key."""
    row = OUTBOUND if is_held else replace(PLAINTEXT, port=8080)
    local = SocketAddress(parse_ip(V4.pod), row.port)
    remotes = (SocketAddress(parse_ip(V4.peer), port) for port in range(1024, 65536))
    ports = [remote.port for remote in remotes if owner_of(remote, local, OWNERS, 0) == 0][:120]
    keyed = World(owners=OWNERS * is_held, takers=OWNERS, plaintext_by_ports=not is_held, choice_key=KEY)
    with rig.world(keyed), spread(rig, OWNERS) as (_, takers):
        found = Counter(owner(rig, row, V4, takers, remote_port=port) for port in ports)
    assert all(found[number] > 120 / OWNERS / 3 for number in range(OWNERS)), found


@EVERY_LISTENER
def test_an_owner_without_a_listener_costs_nobody_a_connection(rig: Rig, row: Listener) -> None:
    with rig.world(World(owners=0, takers=OWNERS)), spread(rig, OWNERS) as (_, takers):
        takers[SLOTS[row.name] * OWNERS + 2].close()
        look = Lookup(f"lookup_{row.side.value}_side", TCP, row.port, "PICKED", 1)
        found = [look_up(rig, look, V4)[1] for _ in range(OWNERS)]
        assert cookie(rig.listeners[row.name]) in found
        assert len(set(found)) == OWNERS and 0 not in found
