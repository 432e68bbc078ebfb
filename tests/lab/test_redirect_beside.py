"""Beside programs of others at any priority: ours and theirs both run, and theirs stay. And who delivers past ours."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from pyroute2 import IPRoute

from agent.lab.topology import PodPlace, Topology
from agent.lab.wiring import UPLINK
from redirect import features, netns, rt_writes, sys_bpf, tc_rows
from redirect.locate import locate
from tests.support.labtraffic import until
from tests.support.redirect_lab import (
    ECHO_PORT,
    SILENCE_S,
    Node,
    dial,
    echoing_lab,
    instance_name,
    redirected,
)

pytestmark = pytest.mark.kernel

CLSACT = {"from_pod": tc_rows.CLSACT_INGRESS, "to_pod": tc_rows.CLSACT_EGRESS}
NEXT, SHOT = -1, 2
THEIR_HANDLE, UDP_PORT = 9, 7000
PRIORITIES = (1, 49152)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with echoing_lab("hgs", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture(scope="module", params=[True, False], ids=["tcx", "clsact"])
def node(
    lab: Topology, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    run_dir = tmp_path_factory.mktemp("n")
    with redirected(lab, "node-a", run_dir, instance=instance_name("s"), has_tcx=request.param) as made:
        yield made
        made.capture()


def index_of(node: Node) -> int:
    with netns.entered(node.place.netns):
        return socket.if_nametoindex(node.pod("a1").ifname)


@contextmanager
def clsact(node: Node) -> Iterator[None]:
    """Of somebody else: `tc qdisc add dev DEV clsact`."""
    with netns.entered(node.place.netns), IPRoute() as ip:
        ip.tc("add", "clsact", index=index_of(node))
    try:
        yield
    finally:
        with netns.entered(node.place.netns), IPRoute() as ip:
            ip.tc("del", "clsact", index=index_of(node))


def put(node: Node, program: str, priority: int, verdict: int) -> int:
    """A filter of somebody else, or another verdict for the one that is there; the id of its program."""
    prog_fd = sys_bpf.load_verdict("theirs", verdict)
    try:
        with netns.entered(node.place.netns):
            rt_writes.put_filter(index_of(node), CLSACT[program], priority, THEIR_HANDLE, prog_fd, "theirs.o")
        return sys_bpf.prog_info(prog_fd).id
    finally:
        os.close(prog_fd)


def theirs(node: Node, program: str) -> list[tuple[int, int]]:
    """(handle, program) of what others have there."""
    with netns.entered(node.place.netns):
        rows = tc_rows.filters(index_of(node), CLSACT[program])
    return [(row.handle, row.program_id) for row in rows if row.handle == THEIR_HANDLE]


@contextmanager
def datagrams(node: Node, program: str) -> Iterator[Datagrams]:
    """UDP, which ours let pass, from the pod or to it."""
    pod, other = node.pod("a1"), node.lab.pods["lab/b1"]
    sender, receiver = (pod, other) if program == "from_pod" else (other, pod)
    with ExitStack() as stack:
        yield Datagrams(sender, receiver, stack)


class Datagrams:
    def __init__(self, sender: PodPlace, receiver: PodPlace, closing: ExitStack) -> None:
        with netns.entered(receiver.netns):
            self._in = closing.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        with netns.entered(sender.netns):
            self._out = closing.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        self._in.bind(("", UDP_PORT))
        self._in.setblocking(False)
        self._to = str(receiver.address(4)), UDP_PORT

    def sent(self) -> None:
        self._out.sendto(b"hello", self._to)

    def arrived(self) -> bool:
        try:
            return self._in.recv(64) == b"hello"
        except BlockingIOError:
            return False


def is_captured(node: Node, program: str) -> bool:
    """Whether a new connection out of the pod, or into it, meets its listener."""
    pod, other = node.pod("a1"), node.lab.pods["lab/b1"]
    ends = (pod, other, 0) if program == "from_pod" else (other, pod, 2)
    with closing(dial(ends[0].netns, ends[1].address(4), ECHO_PORT)):
        node.listeners[ends[2]].accept()[0].close()
    return True


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("program", ["from_pod", "to_pod"])
def test_a_filter_of_somebody_else_and_ours_both_run_and_theirs_stays(
    node: Node, program: str, priority: int, is_first: bool
) -> None:
    """Whoever came first. Theirs drops: what ours hand to the proxy all the same never got there."""
    with clsact(node), datagrams(node, program) as udp:
        if is_first:
            put(node, program, priority, NEXT)
        node.capture("a1")
        put(node, program, priority, NEXT)
        node.capture("a1")  # as the agent does when it hears of it
        udp.sent()
        until(udp.arrived, "what both let pass arrives")
        number = put(node, program, priority, SHOT)
        assert is_captured(node, program)
        passed = node.redirection.stats()[program, "UDP_PASS"]
        udp.sent()
        assert node.redirection.stats()[program, "UDP_PASS"] == passed + 1
        assert not udp.arrived()
        node.capture()
        assert theirs(node, program) == [(THEIR_HANDLE, number)]


def load_deliverer(ifindex: int) -> int:
    """As a CNI's program at an uplink that hands packets straight into pods (eBPF host routing); an fd.

    if (skb->protocol != IPv4) return NEXT; return bpf_redirect_peer(ifindex, 0);
    """
    code = b"".join(
        struct.pack("=BBhi", *row)
        for row in (
            (0x61, 0x12, 16, 0),  # r2 = skb->protocol
            (0x15, 0x02, 2, 0x0008),  # IPv4, in network order: on with the redirect
            (0xB7, 0x00, 0, NEXT),
            (0x95, 0x00, 0, 0),
            (0xB7, 0x01, 0, ifindex),
            (0xB7, 0x02, 0, 0),
            (0x85, 0x00, 0, 155),  # bpf_redirect_peer
            (0x95, 0x00, 0, 0),
        )
    )
    return sys_bpf.load_code("deliverer", code)


def test_what_a_cni_delivers_past_ours_is_not_served(node: Node) -> None:
    """Its SYN gets into the pod; the answer goes to the proxy, which knows of no such connection."""
    if not features.has_tcx():
        pytest.skip("this kernel has no tcx (Linux 6.6), by which that program is attached")
    node.capture("a1")
    pod, other = node.pod("a1"), node.lab.pods["lab/b1"]
    prog_fd = load_deliverer(index_of(node))
    with netns.entered(node.place.netns):
        uplink = socket.if_nametoindex(UPLINK)
        link_fd = sys_bpf.link_create(prog_fd, uplink, sys_bpf.BPF_TCX_INGRESS)
    answered = node.redirection.stats()["from_pod", "TO_PROXY"]
    seen = node.redirection.stats()["to_pod", "SYN_TO_PROXY"]
    try:
        with pytest.raises(TimeoutError):
            dial(other.netns, pod.address(4), ECHO_PORT, SILENCE_S)
    finally:
        os.close(link_fd)
        os.close(prog_fd)
    assert node.redirection.stats()["from_pod", "TO_PROXY"] > answered
    assert node.redirection.stats()["to_pod", "SYN_TO_PROXY"] == seen
    assert is_captured(node, "to_pod")


def test_a_pod_with_a_second_interface_is_refused_with_what_to_do(node: Node) -> None:
    """As Multus makes one, here a macvlan of its first."""
    pod: PodPlace = node.pod("a2")
    with netns.entered(pod.netns), IPRoute() as ip:
        (first,) = ip.link_lookup(ifname="eth0")
        ip.link("add", ifname="net1", kind="macvlan", link=first)
        (second,) = ip.link_lookup(ifname="net1")
        ip.addr("add", index=second, address="10.250.0.2", prefixlen=24)
    try:
        with netns.entered(node.place.netns):
            refusal = locate(netns=pod.netns).refusal
    finally:
        with netns.entered(pod.netns), IPRoute() as ip:
            ip.link("del", index=second)
    assert "more than one interface (eth0, net1)" in refusal and "k8s.v1.cni.cncf.io/networks" in refusal
