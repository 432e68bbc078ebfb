"""SYNs that are held: which owner gets them, when there is no room, and their way back on real devices."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.address import parse_ip
from agent.net.frames import FrameSender
from agent.net.syn_ring import SynRing
from agent.wire import held_syn
from redirect import netns, sys_bpf
from redirect.layout import MAPS, OWNERS_MAX, SLOTS, Flag
from redirect.limits import PodRates
from redirect.rings import RING_BYTES, Rings
from tests.packets.rig import POD_PEER, SIDES, Rig
from tests.packets.sockets import cookie, listener
from tests.packets.test_delivery import attached, native_way, tap
from tests.packets.test_lookups import Lookup, look_up
from tests.packets.world import FAMILIES, HONEST, V4, Family, World
from tests.support import packets as pk
from tests.support.packets import TCP

pytestmark = pytest.mark.kernel
HOOKS = (("from_pod", "lookup_pod_side", "outbound"), ("to_pod", "lookup_net_side", "plaintext"))
RINGED = World(flags=HONEST, has_ring=True)
FORWARDED = 4242


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


@contextmanager
def spread(rig: Rig, owners: int) -> Iterator[tuple[list[SynRing], list[socket.socket]]]:
    """Rings of so many owners, and their takers of every slot; the takers in the order of their index."""
    with ExitStack() as closing:
        rings = Rings(os.dup(rig.maps["rings"]), owners)
        closing.callback(rings.close)
        readers = [SynRing(os.dup(rings.fd(owner))) for owner in range(owners)]
        takers = []
        for index in [slot * OWNERS_MAX + owner for slot in range(len(SLOTS)) for owner in range(owners)]:
            takers.append(closing.enter_context(listener()))
            sys_bpf.map_update(rig.maps["takers"], u32(index), struct.pack("=Q", takers[-1].fileno()))
        for reader in readers:
            closing.callback(reader.close)
        yield readers, takers
        for owner in range(owners):
            sys_bpf.map_delete(rig.maps["rings"], u32(owner))


@pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
@pytest.mark.parametrize("hook", range(2), ids=("from_pod", "to_pod"))
def test_the_owner_whose_ring_has_the_syn_gets_the_connection(rig: Rig, hook: int, net: Family) -> None:
    """Copied and looked up by the same choice; and every owner has its part."""
    owners = 3
    program, lookup, slot = HOOKS[hook]
    rng = random.Random(5)
    counts = [0] * owners
    with (
        rig.world(World(flags=HONEST, owners=owners, takers=owners, choice_key=0x5EED1234)),
        spread(rig, owners) as (readers, takers),
    ):
        for _ in range(60):
            ports = rng.randrange(1024, 65536), rng.randrange(1, 15000)
            ends = ((net.pod, ports[0]), (net.peer, ports[1]))
            if program == "to_pod":
                ends = ((net.peer, ports[0]), (net.pod, ports[1]))
            rig.play(program, pk.segment(*ends[0], *ends[1]), ingress_ifindex=FORWARDED)
            found = [owner for owner, reader in enumerate(readers) for _ in reader.take(10)]
            look = Lookup(lookup, TCP, ports[1], "PICKED", 1)
            source, destination = ends[0][0], ends[1][0]
            _, picked, moved = look_up(
                rig, look, replace(net, peer=source, pod=destination), remote_port=ports[0]
            )
            assert moved == {f"{lookup}/PICKED": 1}
            assert found == [
                owner for owner in range(owners) if picked == cookie(takers[SLOTS[slot] * owners + owner])
            ]
            counts[found[0]] += 1
    assert all(count > 60 / owners / 3 for count in counts), counts


@pytest.mark.parametrize("hook", range(2), ids=("from_pod", "to_pod"))
def test_without_its_taker_a_connection_goes_to_the_slot(rig: Rig, hook: int) -> None:
    _, lookup, slot = HOOKS[hook]
    with rig.world(World(owners=1)), spread(rig, 1) as (_, takers):
        look = Lookup(lookup, TCP, 80, "PICKED", 1)
        assert look_up(rig, look, V4)[1] == cookie(takers[SLOTS[slot]])
        takers[SLOTS[slot]].close()
        assert look_up(rig, look, V4)[1] == cookie(rig.listeners[slot])
    with rig.world(World(owners=0, takers=0)), spread(rig, 1):
        assert look_up(rig, look, V4)[1] == cookie(rig.listeners[slot])


def test_a_full_ring_holds_no_more_and_drops_nothing(rig: Rig) -> None:
    def exit_of(number: int) -> str:
        return rig.exit_of("from_pod", pk.segment(V4.pod, 2000 + number, V4.peer, 80))

    with rig.world(World(flags=HONEST, owners=1)), spread(rig, 1) as (readers, _):
        exits = []
        room = RING_BYTES // (held_syn.RECORD.size + 8)
        for number in range(room + 3):
            # Not the budget is what is tried here.
            sys_bpf.map_delete(rig.maps["rates"], u32(rig.ifindex))
            exits.append(exit_of(number))
        assert exits == ["from_pod/SYN_HELD"] * room + ["from_pod/SYN_RING_FULL"] * 3
        (first,) = readers[0].take(1)
        assert held_syn.read(first).peer.port == 2000
        assert exit_of(room + 3) == "from_pod/SYN_HELD"
        rest = readers[0].take(2 * room)
        # In order, over the edge of the ring too.
        assert [held_syn.read(each).peer.port - 2000 for each in rest] == [*range(1, room), room + 3]


@pytest.mark.parametrize("program", ("from_pod", "to_pod"))
def test_a_pod_may_have_only_so_many_held(rig: Rig, program: str) -> None:
    """Each direction by itself, 512 at once; what is too many goes to the listener at once."""
    other = {"from_pod": "to_pod", "to_pod": "from_pod"}[program]

    def exit_of(program: str, number: int) -> str:
        ends = ((V4.pod, 2000 + number), (V4.peer, 80))
        if program == "to_pod":
            ends = ((V4.peer, 2000 + number), (V4.pod, 80))
        return rig.exit_of(program, pk.segment(*ends[0], *ends[1]), FORWARDED)

    with rig.world(World(flags=HONEST, owners=1)), spread(rig, 1):
        began_ns = time.monotonic_ns()
        exits = [exit_of(program, number) for number in range(600)]
        earned = (time.monotonic_ns() - began_ns) // 500_000
        held = exits.count(f"{program}/SYN_HELD")
        assert 512 <= held <= 513 + earned
        assert exits[:512] == [f"{program}/SYN_HELD"] * 512
        if held < 600:
            assert exits.count(f"{program}/SYN_UNHELD") == 600 - held
        assert exit_of(other, 1) == f"{other}/SYN_HELD"
        key = u32(rig.ifindex)
        used = PodRates(*[time.monotonic_ns() + 3600 * 10**9] * 2)
        sys_bpf.map_update(rig.maps["rates"], key, used.encode())
        assert exit_of(program, 1) == f"{program}/SYN_UNHELD"
        sys_bpf.map_update(rig.maps["rates"], key, PodRates().encode())
        assert exit_of(program, 1) == f"{program}/SYN_HELD"
        raw = sys_bpf.map_lookup(rig.maps["rates"], key, MAPS["rates"].value_bytes)
        assert raw is not None and PodRates.decode(raw) != PodRates()


def test_rings_outlive_who_made_them_and_what_waits_in_one_stays(rig: Rig) -> None:
    def rings() -> Rings:
        return Rings(os.dup(rig.maps["rings"]), 2)

    with rig.world(World(flags=HONEST, owners=1)):
        made = rings()
        made.close()
        rig.play("from_pod", pk.segment(V4.pod, 2001, V4.peer, 80))
        again = rings()
        assert (again.is_empty(0), again.is_empty(1)) == (False, True)
        reader = SynRing(os.dup(again.fd(0)))
        again.renew(0)
        assert again.is_empty(0)
        rig.play("from_pod", pk.segment(V4.pod, 2002, V4.peer, 80))
        assert not again.is_empty(0)
        # The one before has what it had, and no more comes to it.
        assert [held_syn.read(each).peer.port for each in reader.take(10)] == [2001]
        reader.close()
        again.close()
        fewer = Rings(os.dup(rig.maps["rings"]), 1)
        assert sys_bpf.map_lookup(rig.maps["rings"], u32(1), 4) is None
        assert not fewer.is_empty(0)
        fewer.close()
        sys_bpf.map_delete(rig.maps["rings"], u32(0))


@pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
@pytest.mark.parametrize("side", ("pod", "net"))
def test_a_held_syn_comes_in_again_with_its_checksum_right(rig: Rig, side: str, net: Family) -> None:
    """By a packet socket of the side, out and back: it meets the programs there as a SYN of the pod does."""
    source, destination = (net.pod, net.peer) if side == "pod" else (net.peer, net.pod)
    options = bytes.fromhex("020405b40402080a000000000000000001030307")
    frame = pk.ip(source, destination, TCP, pk.tcp(40005, 80, data=b"early!", options=options))
    with ExitStack() as closing:
        closing.enter_context(rig.world(RINGED))
        program = "from_pod" if side == "pod" else "to_pod"
        (record,) = rig.play(program, frame, ingress_ifindex=FORWARDED).held
        syn = held_syn.read(record)
        assert (syn.peer, syn.local) == ((parse_ip(source), 40005), (parse_ip(destination), 80))
        assert (syn.sequence, syn.payload_bytes) == (1, 6)
        closing.enter_context(attached(rig, native_way(), f"from_{side}_side", rig.links[side].ifindex))
        with netns.entered(rig.paths[side]):
            sender = FrameSender(SIDES[side].ifname)
        closing.callback(sender.close)
        inside = closing.enter_context(tap(rig.paths[side], SIDES[side].ifname))
        before = rig.counters()
        assert sender.send(held_syn.again(syn, sender.mac))
        rig.until_counted(f"from_{side}_side/SYN_BACK", before)
        expected = pk.ip(source, destination, TCP, pk.tcp(40005, 80, options=options))
        came = _from_outside(inside, expected)
    assert came[:6] == rig.links[side].inner_mac
    assert _rest(came) == _rest(expected)
    assert sender.lost == 0


def _from_outside(sock: socket.socket, frame: bytes) -> bytes:
    while True:
        seen, (_, _, kind, *_) = sock.recvfrom(2048)
        if kind == socket.PACKET_HOST and len(seen) == len(frame) and seen[12:14] == frame[12:14]:
            return seen


def _rest(frame: bytes) -> bytes:
    """Addresses, and TCP with its options; without checksums."""
    at = 34 if frame[12:14] == b"\x08\x00" else 54
    return frame[at - 8 : at + 16] + frame[at + 18 :]


@pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
def test_a_reset_goes_to_the_pod(rig: Rig, net: Family) -> None:
    with ExitStack() as closing:
        closing.enter_context(rig.world(RINGED))
        (record,) = rig.play("from_pod", pk.segment(net.pod, 40005, net.peer, 80)).held
        syn = held_syn.read(record)
        closing.enter_context(attached(rig, native_way(), "from_pod_side", rig.links["pod"].ifindex))
        with netns.entered(rig.paths["pod"]):
            sender = FrameSender(SIDES["pod"].ifname)
        closing.callback(sender.close)
        inside = closing.enter_context(tap(rig.pod_path, POD_PEER))
        assert sender.send(held_syn.reset(syn, sender.mac * 2))
        while True:
            seen = inside.recv(2048)
            at = 34 if net is V4 else 54
            if seen[at : at + 4] == struct.pack(">HH", 80, 40005):
                break
    assert seen[at + 4 : at + 14] == struct.pack(">II", 0, 2) + b"\x50\x14"


def test_a_frame_with_a_vlan_tag_is_not_held(rig: Rig) -> None:
    """The tag lies beside the packet: a copy would lose it."""
    frame = pk.segment(V4.pod, 40005, V4.peer, 80)
    with ExitStack() as closing:
        closing.enter_context(rig.world(RINGED))
        closing.enter_context(attached(rig, native_way(), "from_pod", rig.ifindex))
        outside = closing.enter_context(tap(rig.pod_path, POD_PEER))
        for sent, name in ((pk.vlan(frame), "SYN_TO_PROXY"), (frame, "SYN_HELD")):
            before = rig.counters()
            outside.send(sent)
            rig.until_counted(f"from_pod/{name}", before)
        assert len(rig.ring.take(10)) == 1


def test_a_sender_finds_its_device_again(rig: Rig) -> None:
    """Somebody took the device away, and it was made again: `ip link del`, `ip link add`."""
    name = "hh-again"
    path = rig.paths["pod"]
    ends = (name, f"{name}-2")
    add = f"link add {name} type veth peer name {name}-2".split()
    make = (add, *(f"link set {end} up".split() for end in ends))
    _ip(path, *make)
    try:
        with netns.entered(path):
            sender = FrameSender(name)
        before = sender.mac
        _ip(path, f"link del {name}".split())
        frame = held_syn.vnet_header(34) + pk.segment(V4.pod, 1, V4.peer, 2)
        assert not sender.send(frame)
        _ip(path, *make)
        assert sender.send(frame)
        assert sender.lost == 1 and sender.mac != before
        sender.close()
    finally:
        _ip(path, f"link del {name}".split())


def _ip(path: Path, *commands: list[str]) -> None:
    with netns.entered(path):
        for command in commands:
            subprocess.run(["ip", *command], check=True)


def test_a_pod_may_ask_only_so_much_at_once(rig: Rig) -> None:
    """1000 queries at once, and 6 each millisecond; SYNs of it are held all the same."""

    def exit_of(number: int) -> str:
        return rig.exit_of("from_pod", pk.datagram(V4.pod, 2000 + number, V4.peer, 53))

    with rig.world(World(flags=HONEST | Flag.DNS, owners=1)), spread(rig, 1):
        began_ns = time.monotonic_ns()
        exits = [exit_of(number) for number in range(1200)]
        earned = (time.monotonic_ns() - began_ns) // 166_667
        taken = exits.count("from_pod/DNS_TO_PROXY")
        assert exits[:1000] == ["from_pod/DNS_TO_PROXY"] * 1000 and taken <= 1001 + earned
        assert exits.count("from_pod/DNS_TOO_FAST") == 1200 - taken
        (name,) = rig.play("from_pod", pk.segment(V4.pod, 2000, V4.peer, 80)).counted
        assert name == "from_pod/SYN_HELD"
