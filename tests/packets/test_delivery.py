"""Where redirected packets really arrive: a test run does not redirect, so these frames cross real devices."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from redirect import features, netns, rt_writes, sys_bpf
from redirect.attach import TCX_TYPES
from redirect.filters import HANDLE, PARENTS, PRIORITY
from tests.packets.rig import POD_DEVICE, POD_PEER, SIDES, Rig
from tests.packets.world import ENROLLED, FAMILIES, POD_MAC, QUEUED, Family, Socket, World
from tests.support import packets as pk
from tests.support.queues import limited

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name),
    pytest.mark.parametrize("way", ["tcx", "clsact"]),
]
ETH_P_ALL = 3
LIMIT_S = 5.0


def native_way() -> str:
    """By which this kernel attaches programs."""
    return "tcx" if features.has_tcx() else "clsact"


@contextmanager
def attached(rig: Rig, way: str, program: str, ifindex: int) -> Iterator[None]:
    """The program on a device of the node, where it belongs; gone at the end."""
    fd = rig.programs[program]
    if way == "clsact":
        rt_writes.add_clsact(ifindex)
        try:
            rt_writes.put_filter(ifindex, PARENTS[program], PRIORITY, HANDLE, fd, program)
            yield
        finally:
            rt_writes.delete_clsact(ifindex)
        return
    if not features.has_tcx():
        pytest.skip("this kernel has no tcx (Linux 6.6)")
    link = sys_bpf.link_create(fd, ifindex, TCX_TYPES[program], sys_bpf.BPF_F_BEFORE)
    try:
        yield
    finally:
        os.close(link)


@contextmanager
def tap(path: Path, device: str) -> Iterator[socket.socket]:
    """Sends frames out of a device and sees those that come in by it."""
    with netns.entered(path):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock:
        sock.bind((device, ETH_P_ALL))
        sock.settimeout(LIMIT_S)
        yield sock


def arrival(sock: socket.socket, frame: bytes) -> bytes:
    """The frame as it came in: that with the same IP packet. TimeoutError if none does."""
    while True:
        seen, (_, _, kind, *_) = sock.recvfrom(2048)
        if kind != socket.PACKET_OUTGOING and seen[14 : len(frame)] == frame[14:]:
            return seen


def test_a_pods_connection_arrives_on_the_pod_side(rig: Rig, net: Family, way: str) -> None:
    frame = pk.segment(net.pod, 40005, net.peer, 80)
    with ExitStack() as closing:
        closing.enter_context(rig.world(World()))
        closing.enter_context(attached(rig, way, "from_pod", rig.ifindex))
        inside = closing.enter_context(tap(rig.paths["pod"], SIDES["pod"].ifname))
        closing.enter_context(tap(rig.pod_path, POD_PEER)).send(frame)
        assert arrival(inside, frame) == frame


def test_an_answer_for_the_proxy_arrives_on_the_net_side(rig: Rig, net: Family, way: str) -> None:
    pod, host = (net.pod, 40006), (net.host, 10250)
    frame = pk.segment(*host, *pod, pk.ACK)
    with ExitStack() as closing:
        closing.enter_context(rig.world(World(sockets=(Socket("net", pod, host),))))
        closing.enter_context(attached(rig, way, "to_pod", rig.ifindex))
        inside = closing.enter_context(tap(rig.paths["net"], SIDES["net"].ifname))
        closing.enter_context(tap(rig.paths["host"], POD_DEVICE)).send(frame)
        assert arrival(inside, frame)[:6] == rig.links["net"].inner_mac


def test_what_the_pod_side_sends_arrives_in_the_pod(rig: Rig, net: Family, way: str) -> None:
    frame = pk.segment(net.peer, 40007, net.pod, 80)
    with ExitStack() as closing:
        closing.enter_context(rig.world(World()))
        closing.enter_context(attached(rig, way, "from_pod_side", rig.links["pod"].ifindex))
        pod = closing.enter_context(tap(rig.pod_path, POD_PEER))
        closing.enter_context(tap(rig.paths["pod"], SIDES["pod"].ifname)).send(frame)
        assert arrival(pod, frame) == POD_MAC + net.hop_mac + frame[12:]


def test_what_the_net_side_sends_comes_out_of_the_pods_device(rig: Rig, net: Family, way: str) -> None:
    """Marked between the two programs only: from_pod lets it into the host and counts it once."""
    frame = pk.segment(net.pod, 40008, net.peer, 80)
    before = rig.counters()
    with ExitStack() as closing:
        closing.enter_context(rig.world(World()))
        closing.enter_context(attached(rig, way, "from_net_side", rig.links["net"].ifindex))
        closing.enter_context(attached(rig, way, "from_pod", rig.ifindex))
        # taps come before tc ingress, so what this one sees is still on its way into from_pod
        device = closing.enter_context(tap(rig.paths["host"], POD_DEVICE))
        closing.enter_context(tap(rig.paths["net"], SIDES["net"].ifname)).send(frame)
        assert arrival(device, frame)[:12] == net.hop_mac + POD_MAC
        rig.until_counted("from_pod/PROXY", before)


def test_what_the_pod_side_sends_goes_through_the_queue_of_the_pods_device(
    rig: Rig, net: Family, way: str
) -> None:
    """`tc qdisc add dev DEV root tbf`, as the bandwidth plugin of the CNI does: it sees the frame, and the pod too."""
    frame = pk.segment(net.peer, 40009, net.pod, 80)
    with ExitStack() as closing:
        closing.enter_context(rig.world(World(flags=ENROLLED | QUEUED)))
        closing.enter_context(attached(rig, way, "from_pod_side", rig.links["pod"].ifindex))
        closing.enter_context(attached(rig, way, "to_pod", rig.ifindex))
        sent = closing.enter_context(limited(rig.ifindex))
        pod = closing.enter_context(tap(rig.pod_path, POD_PEER))
        before = sent()
        closing.enter_context(tap(rig.paths["pod"], SIDES["pod"].ifname)).send(frame)
        assert arrival(pod, frame)[:12] == POD_MAC + net.hop_mac
        assert sent() == before + len(frame)
