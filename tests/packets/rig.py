"""A node to run packets in: the programs pinned once, a network namespace with the two private ones beside it.

`Rig.play` puts one world into the maps, opens its sockets, runs one packet through one program by
BPF_PROG_TEST_RUN and answers everything that changed. A test run redirects nothing: its verdict is the helper's
return code. All of it lives in namespaces and a bpffs of its own, removed at the end.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.net.syn_ring import SynRing
from redirect import loader, netns, sides, sys_bpf
from redirect.conf import Conf
from redirect.encapsulations import encapsulation_bits
from redirect.layout import (
    HOOK_TO_POD,
    MAPS,
    NO_ADDRESS,
    NO_MAC,
    PINNED,
    REASONS,
    SLOTS,
    FlowKey,
    HostFlow,
    IfaceEntry,
    Neighbour,
    NeighbourKey,
    PodEntry,
    address_key,
    mask,
    parse_ip,
)
from redirect.limits import CaptureCount, PodRates, Stranger
from redirect.opening import OF_NODE, Opening, now_ns
from redirect.side import Side
from tests.packets.counters import Counters
from tests.packets.denied import entries_of_denied
from tests.packets.devices import add_veth
from tests.packets.sockets import listener, make_every_address_local, opened
from tests.packets.world import (
    BRIDGE,
    BRIDGE_MAC,
    ENROLLED,
    FAMILIES,
    NET_SIDE,
    POD_MAC,
    POD_SIDE,
    Bridge,
    World,
)
from tests.support import altered_programs

PREFIX = f"hh-{os.getpid()}"
NODE, POD, POD_DEVICE, POD_PEER = f"{PREFIX}-node", f"{PREFIX}-a", "hh-pod", "hh-eth0"
SIDES = {"pod": Side(f"{PREFIX}-pod", "hh-mo"), "net": Side(f"{PREFIX}-net", "hh-mi")}
RING_BYTES = 4096
OTHER_IFINDEX = 4246
"""No device: of other pods."""
CONTEXT_BYTES = 256
"""Longer than any kernel's struct __sk_buff; its unknown tail must be zero."""
MARK_AT, INGRESS_AT, IFINDEX_AT, CB_AT, GSO_SIZE_AT = 8, 36, 40, 48, 176
AS_TOLD = ("skb->ingress_ifindex", "skb->cb[0]")
"""What a program reads in place of the device, where a test run cannot say that one: all else is as it is."""
NAMES = [f"{reason.program}/{reason.name}" for reason in REASONS]


@dataclass(frozen=True, slots=True)
class Played:
    """What one packet did."""

    verdict: int
    data: bytes
    mark: int
    counted: dict[str, int]
    passthru: frozenset[FlowKey]
    hostflows: dict[FlowKey, int]
    """With the interface of each."""
    neighbours: dict[str, Neighbour]
    wanted: frozenset[str]
    held: tuple[bytes, ...]
    """Records of the ring."""


class Rig:
    """The programs, their maps and the namespaces. The calling thread must be inside the node's namespace."""

    def __init__(self, pins: Path, closing: ExitStack, ingress_at: int = INGRESS_AT) -> None:
        """`ingress_at`: where in the context the programs look for the device that a packet came in by."""
        self.pins = pins
        self.ingress_at = ingress_at
        self.programs = {name: sys_bpf.obj_get(pins / f"prog_{name}") for name in PINNED}
        self.maps = {name: sys_bpf.obj_get(pins / f"map_{name}") for name in MAPS}
        for fd in (*self.programs.values(), *self.maps.values()):
            closing.callback(os.close, fd)
        self.links = {name: sides.prepare(side) for name, side in SIDES.items()}
        self.pod_path = netns.ensure(POD)
        self.ifindex = add_veth(POD_DEVICE, POD_PEER, self.pod_path)
        self.paths = {"host": netns.path_of(NODE), **{name: side.netns for name, side in SIDES.items()}}
        for path in self.paths.values():
            with netns.entered(path):
                make_every_address_local()
        self.listeners = {name: closing.enter_context(listener()) for name in SLOTS}
        self._counters = Counters(self.maps["stats"], len(NAMES))
        self._unseen = bytes(MAPS["seen"].value_bytes * sys_bpf.possible_cpus())
        fd = sys_bpf.map_create(sys_bpf.MAP_TYPE_RINGBUF, "ring_of_test", max_entries=RING_BYTES)
        self.ring = SynRing(fd)
        closing.callback(self.ring.close)

    @contextmanager
    def world(self, world: World) -> Iterator[None]:
        """The maps as the world says, and its sockets open."""
        with ExitStack() as closing:
            self._fill(world)
            closing.callback(self._clear, world)
            for spec in world.sockets:
                closing.enter_context(opened(spec, self.paths[spec.side]))
            yield

    def play(
        self, program: str, packet: bytes, mark: int = 0, ingress_ifindex: int = 0, gso_size_bytes: int = 0
    ) -> Played:
        """One packet that arrives at (or leaves by) the pod's device, in the world that is set."""
        context = self._context(mark, ingress_ifindex, gso_size_bytes)
        before = self.counters()
        ran = sys_bpf.prog_test_run(self.programs[program], packet, context)
        after = self.counters()
        return Played(
            ran.verdict,
            ran.data,
            struct.unpack_from("=I", ran.context, MARK_AT)[0],
            {name: after[name] - before[name] for name in NAMES if after[name] != before[name]},
            self.passthrough(),
            self.host_flows(),
            self.neighbours(),
            frozenset(str(key.address) for key in self._link_keys("wanted")),
            tuple(self.ring.take(1000)),
        )

    def exit_of(self, program: str, packet: bytes, ingress_ifindex: int = 0) -> str:
        """By which it leaves, without a look at what else has changed: for the many."""
        context = self._context(0, ingress_ifindex, 0)
        before = self._counters.read()
        sys_bpf.prog_test_run(self.programs[program], packet, context)
        changes = zip(NAMES, before, self._counters.read(), strict=True)
        (name,) = (name for name, old, new in changes if new != old)
        return name

    def _context(self, mark: int, ingress_ifindex: int, gso_size_bytes: int) -> bytes:
        context = bytearray(CONTEXT_BYTES)
        struct.pack_into("=I", context, MARK_AT, mark)
        sides = {POD_SIDE: self.links["pod"].ifindex, NET_SIDE: self.links["net"].ifindex}
        ingress_ifindex = sides.get(ingress_ifindex, ingress_ifindex)
        struct.pack_into("=I", context, self.ingress_at, ingress_ifindex)
        struct.pack_into("=I", context, IFINDEX_AT, self.ifindex)
        struct.pack_into("=I", context, GSO_SIZE_AT, gso_size_bytes)
        return bytes(context)

    def run(self, program: str, packet: bytes) -> None:
        """The same without a look at what has changed."""
        context = bytearray(CONTEXT_BYTES)
        struct.pack_into("=I", context, IFINDEX_AT, self.ifindex)
        sys_bpf.prog_test_run(self.programs[program], packet, bytes(context))

    def neighbours(self) -> dict[str, Neighbour]:
        """Those of the pod, by address."""
        found = {}
        for key in self._link_keys("neighbours"):
            raw = sys_bpf.map_lookup(self.maps["neighbours"], key.encode(), Neighbour.FORMAT.size)
            found[str(key.address)] = Neighbour.decode(raw or b"")
        return found

    def _link_keys(self, name: str) -> list[NeighbourKey]:
        keys = sys_bpf.map_keys(self.maps[name], NeighbourKey.FORMAT.size)
        return [key for key in map(NeighbourKey.decode, keys) if key.ifindex == self.ifindex]

    def counters(self) -> dict[str, int]:
        return dict(zip(NAMES, self._counters.read(), strict=True))

    def until_counted(self, name: str, before: dict[str, int], limit_s: float = 5.0) -> None:
        """Waits for a packet on a real device to be counted, once."""
        end = time.monotonic() + limit_s
        while self.counters()[name] == before[name]:
            assert time.monotonic() < end, f"{name} did not move"
        assert self.counters()[name] == before[name] + 1

    def passthrough(self) -> frozenset[FlowKey]:
        keys = sys_bpf.map_keys(self.maps["passthru"], FlowKey.FORMAT.size)
        return frozenset(FlowKey.decode(key) for key in keys)

    def host_flows(self) -> dict[FlowKey, int]:
        entries = sys_bpf.map_items(self.maps["hostflows"], FlowKey.FORMAT.size, HostFlow.FORMAT.size)
        return {FlowKey.decode(key): HostFlow.decode(value).ifindex for key, value in entries}

    def captures(self) -> CaptureCount:
        """What the pod's device has counted."""
        size = CaptureCount.FORMAT.size
        raw = sys_bpf.map_lookup(self.maps["captures"], struct.pack("=I", self.ifindex), size)
        return CaptureCount.decode(raw or bytes(size))

    def set_slot(self, slot: str, sock: socket.socket | None) -> None:
        key = struct.pack("=I", SLOTS[slot])
        if sock is not None:
            sys_bpf.map_update(self.maps["socks"], key, struct.pack("=Q", sock.fileno()))
            return
        try:
            sys_bpf.map_delete(self.maps["socks"], key)
        except OSError as error:
            # what a sockmap says of a slot that is empty already
            assert error.errno == errno.EINVAL

    def conf(self, world: World) -> Conf:
        if not world.has_conf:
            return Conf(0, 0, 0, 0, bytes(6))
        pod, net = self.links["pod"], self.links["net"]
        places = (pod.ifindex, net.ifindex, pod.nsid, net.nsid, net.inner_mac)
        allowed = encapsulation_bits(world.allowed)
        takers = (world.owners, world.takers)
        rules = (*world.stranger_limit, world.plaintext_by_ports, world.choice_key, world.host_cgroup)
        return Conf(*places, world.is_dns_open, allowed, *takers, *rules)

    def _fill(self, world: World) -> None:
        put = self._put
        put("conf", struct.pack("=I", 0), self.conf(world).encode())
        addresses = [
            address_key(parse_ip(text)) if text else NO_ADDRESS for text in (world.addr4, world.addr6)
        ]
        if world.has_iface:
            entry = _on_bridge(
                IfaceEntry(world.flags, *addresses, mac=world.mac, learnt_until_s=world.learnt_until_s),
                world.bridge,
            )
            put("ifaces", struct.pack("=I", self.ifindex), entry.encode())
        bridge = world.bridge or Bridge()
        sizes = (world.mtu_bytes, world.mss_bytes)
        if world.has_pods:
            number = BRIDGE if world.bridge else 0
            for address, net in zip(addresses, FAMILIES, strict=True):
                if address != NO_ADDRESS:
                    hop_mac = net.hop_mac if bridge.has_hop else NO_MAC
                    pod = PodEntry(world.flags, self.ifindex, POD_MAC, hop_mac, *sizes, number)
                    put("pods", address, pod.encode())
        for other in bridge.others:
            pod = PodEntry(
                ENROLLED, OTHER_IFINDEX, other.mac, BRIDGE_MAC, *sizes, BRIDGE if other.is_on_bridge else 7
            )
            put("pods", address_key(parse_ip(other.address)), pod.encode())
        for text, neighbour in bridge.neighbours:
            put("neighbours", NeighbourKey(self.ifindex, parse_ip(text)).encode(), neighbour.encode())
        for text in world.hostips:
            put("hostips", address_key(parse_ip(text)), struct.pack("=I", 1))
        for flow in world.passthru:
            put("passthru", flow.encode(), struct.pack("=Q", world.kept_until_ns))
        for flow in world.hostflows:
            assert flow.hook == HOOK_TO_POD
            put("hostflows", flow.encode(), HostFlow(self.ifindex + world.is_by_other, 1).encode())
        for flow in world.bypassed:
            put("hostflows", flow.encode(), HostFlow(0, 1).encode())
        self._open(world, addresses)
        for name, key, value in entries_of_denied(world, self.ifindex, OTHER_IFINDEX):
            put(name, key, value)
        for slot in SLOTS:
            self.set_slot(slot, self.listeners[slot] if slot in world.slots else None)
        if world.has_ring:
            put("rings", struct.pack("=I", 0), struct.pack("=I", self.ring.fileno()))
        if world.budget_used:
            never_ns = time.monotonic_ns() + 3600 * 10**9
            put("rates", struct.pack("=I", self.ifindex), PodRates(never_ns, never_ns, never_ns).encode())
            for net in FAMILIES:
                who = Stranger(address_key(parse_ip(net.peer)), self.ifindex)
                put("strangers", who.encode(), struct.pack("=Q", never_ns))

    def _open(self, world: World, addresses: list[bytes]) -> None:
        at_ns = now_ns()
        at_s = at_ns // 10**9 - (15 if world.began_before else 0)
        for flow in world.opened:
            self._put("hostflows", flow.encode(), HostFlow(self.ifindex, at_s).encode())
        since_ns, until_ns = at_ns - 10 * 10**9, at_ns + 3600 * 10**9
        own = {
            "pod": [(self.ifindex, Opening(until_ns, since_ns, *addresses))],
            "node": [(OF_NODE, Opening(until_ns, since_ns))],
            "former": [(self.ifindex, Opening(until_ns, since_ns, addresses[0], NO_ADDRESS))],
            "over": [
                (self.ifindex, Opening(at_ns - 1, since_ns, *addresses)),
                (OF_NODE, Opening(at_ns - 1, since_ns)),
            ],
            "": [],
        }[world.opening]
        for number, opening in own:
            self._put("openings", struct.pack("=I", number), opening.encode())
        self._put("open_until", struct.pack("=I", 0), struct.pack("=Q", until_ns if own else 0))

    def _put(self, name: str, key: bytes, value: bytes) -> None:
        sys_bpf.map_update(self.maps[name], key, value)

    def _clear(self, world: World) -> None:
        # The kernel waits for a grace period after each of these, also where nothing is there.
        if world.has_ring and sys_bpf.map_delete(self.maps["rings"], struct.pack("=I", 0)):
            self.ring.take(1000)
        # The next packet of a test run may lie where the last one did.
        self._put("seen", struct.pack("=I", 0), self._unseen)
        for name in set(MAPS) - {
            "conf",
            "open_until",
            "stats",
            "seen",
            "socks",
            "takers",
            "turns",
            "rings",
            "members",
            "drafts",
            "tracing",
            "trace_ring",
        }:
            for key in list(sys_bpf.map_keys(self.maps[name], MAPS[name].key_bytes)):
                sys_bpf.map_delete(self.maps[name], key)


def _on_bridge(entry: IfaceEntry, bridge: Bridge | None) -> IfaceEntry:
    if bridge is None:
        return entry
    masks = [
        mask(bits, version) if own != NO_ADDRESS else NO_ADDRESS
        for bits, version, own in zip(bridge.bits, (4, 6), (entry.addr4, entry.addr6), strict=True)
    ]
    gateways = {ip.version: address_key(ip) for ip in map(parse_ip, bridge.gateways)}
    return replace(
        entry,
        mask4=masks[0],
        mask6=masks[1],
        gateway4=gateways.get(4, NO_ADDRESS),
        gateway6=gateways.get(6, NO_ADDRESS),
        bridge_ifindex=BRIDGE,
        bridge_mac=BRIDGE_MAC,
    )


@contextmanager
def bpffs() -> Iterator[Path]:
    """A bpffs of its own: `mount -t bpf bpf DIR`"""
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}-") as directory:
        netns.call("mount", b"bpf", os.fsencode(directory), b"bpf", 0, None)
        try:
            yield Path(directory)
        finally:
            netns.call("umount2", os.fsencode(directory), netns.MNT_DETACH)


def _takes_ingress_ifindex() -> bool:
    """Whether a test run may say by which device its packet came in; Linux 5.10 refuses it."""
    program = sys_bpf.load_verdict("ingress", 0)
    context = bytearray(CONTEXT_BYTES)
    struct.pack_into("=I", context, INGRESS_AT, 1)
    try:
        sys_bpf.prog_test_run(program, bytes(64), bytes(context))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        os.close(program)
    return True


@contextmanager
def built() -> Iterator[Rig]:
    """Everything, once; the thread is back in its own namespace between tests."""
    with ExitStack() as closing:
        place = closing.enter_context(bpffs())
        pins, record = place / "x", Path(tempfile.gettempdir(), f"{place.name}.log")
        ingress_at = INGRESS_AT if _takes_ingress_ifindex() else CB_AT
        if ingress_at == INGRESS_AT:
            loader.load(pins, record, altered_programs.TIMEOUT_S)
        else:
            tree = Path(closing.enter_context(tempfile.TemporaryDirectory()))
            wrong = altered_programs.load(tree, "to_pod.c", *AS_TOLD, pins=pins, record=record)
            assert not wrong, wrong
        for name in (NODE, POD, *(side.namespace for side in SIDES.values())):
            closing.callback(netns.remove, name)
        with netns.entered(netns.ensure(NODE)):
            rig = Rig(pins, closing, ingress_at)
        yield rig
