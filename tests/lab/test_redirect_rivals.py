"""Programs of others that get before ours: ours go ahead again, with no gap, but not for ever."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from agent.lab.topology import Topology
from redirect import netns, rt_writes, sys_bpf
from redirect.findings import Part
from redirect.rivals import MOVES
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

CLSACT = {"from_pod": 0xFFFFFFF2, "to_pod": 0xFFFFFFF3, "from_net_side": 0xFFFFFFF2}
TCX = {
    "from_pod": sys_bpf.BPF_TCX_INGRESS,
    "to_pod": sys_bpf.BPF_TCX_EGRESS,
    "from_net_side": sys_bpf.BPF_TCX_INGRESS,
}
PASS, NEXT = 0, -1
ETH_P_ALL = 3


class Crash(BaseException):
    """In place of a SIGKILL: nobody handles it."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with echoing_lab("hgv", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture(params=[True, False], ids=["tcx", "clsact"])
def node(lab: Topology, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """With one pod captured."""
    with redirected(lab, "node-a", tmp_path, instance=instance_name("v"), has_tcx=request.param) as made:
        made.capture("a1")
        yield made


def ifindex(node: Node) -> int:
    with netns.entered(node.place.netns):
        return socket.if_nametoindex(node.pod("a1").ifname)


@contextmanager
def ahead(node: Node, program: str, verdict: int, index: int | None = None) -> Iterator[Callable[[], None]]:
    """A program of somebody else before one of ours; it comes back to the front when it is called."""
    number = ifindex(node) if index is None else index
    with ExitStack() as stack:
        prog_fd = sys_bpf.load_verdict("greedy", verdict)
        stack.callback(os.close, prog_fd)
        held: list[int] = []

        def link() -> None:
            leave_link()
            with netns.entered(node.place.netns):
                held.append(sys_bpf.link_create(prog_fd, number, TCX[program], sys_bpf.BPF_F_BEFORE))

        def leave_link() -> None:
            while held:
                fd = held.pop()
                sys_bpf.link_detach(fd)
                os.close(fd)

        def filter_() -> None:
            # tc filter add dev DEV ingress|egress prio 1 handle 9 bpf direct-action
            leave_filter()
            with netns.entered(node.place.netns):
                rt_writes.put_filter(number, CLSACT[program], 1, 9, prog_fd, "greedy.o")

        def leave_filter() -> None:
            with netns.entered(node.place.netns), suppress(FileNotFoundError):
                rt_writes.delete_filter(number, CLSACT[program], 1, 9)

        come, leave = (link, leave_link) if node.has_tcx else (filter_, leave_filter)
        come()
        stack.callback(leave)
        yield come


@contextmanager
def wire(node: Node) -> Iterator[Callable[[], int]]:
    """How many packets in clear the other node's pod has got from ours, by those for the port of its echo."""
    with netns.entered(node.lab.pods["lab/b1"].netns):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    with closing(sock):
        sock.setblocking(False)
        yield lambda: sum(is_dial(packet) for packet in iter(lambda: received(sock), b""))


def received(sock: socket.socket) -> bytes:
    """The next packet, empty where there is none."""
    try:
        return sock.recv(2048)
    except BlockingIOError:
        return b""


def is_dial(packet: bytes) -> bool:
    head = (packet[0] & 0xF) * 4
    is_tcp = packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP
    return is_tcp and int.from_bytes(packet[head + 2 : head + 4], "big") == ECHO_PORT


def leaks(node: Node) -> bool:
    """Whether a dial of the pod leaves in clear."""
    with wire(node) as seen:
        with suppress(TimeoutError):
            dial(node.pod("a1").netns, node.lab.pods["lab/b1"].address(4), ECHO_PORT, SILENCE_S).close()
        return bool(seen())


def is_served(node: Node) -> bool:
    """New connections out of the pod and into it meet the listeners."""
    outside = node.lab.pods["lab/b1"]
    node.listen()
    with closing(dial(node.pod("a1").netns, outside.address(4), ECHO_PORT)):
        node.listeners[0].accept()[0].close()
    with closing(dial(outside.netns, node.pod("a1").address(6), ECHO_PORT)):
        node.listeners[2].accept()[0].close()
    return True


@contextmanager
def live(node: Node) -> Iterator[Callable[[], bool]]:
    """A captured connection, and whether it still carries bytes both ways."""
    with closing(dial(node.pod("a1").netns, node.lab.pods["lab/b1"].address(4), ECHO_PORT)) as client:
        accepted, _ = node.listeners[0].accept()
        with accepted:
            accepted.settimeout(5)
            client.settimeout(5)

            def says_the_same() -> bool:
                client.sendall(b"there")
                accepted.sendall(b"back")
                return accepted.recv(64) == b"there" and client.recv(64) == b"back"

            yield says_the_same


@pytest.mark.parametrize("program", ["from_pod", "to_pod"])
def test_ours_goes_ahead_of_it_beneath_live_connections(node: Node, program: str) -> None:
    assert node.prove("a1") == ()
    with live(node) as says_the_same, ahead(node, program, PASS):
        (found,) = node.prove("a1")
        assert (found.part, found.ifindex, found.is_mendable) == (Part.PROGRAM, ifindex(node), True)
        assert "greedy" in found.reason and f"before {program} on pod-a1" in found.reason
        if program == "from_pod":
            assert leaks(node)
        done = node.capture("a1")
        assert any("before the programs of others" in line for line in done)
        assert any("was not guarded" in line for line in done)
        assert node.prove("a1") == () and node.capture("a1") == []
        assert says_the_same()
        assert is_served(node) and not leaks(node)
    passed = node.redirection.passed()
    assert passed.outbound + passed.inbound > 0
    assert node.prove("a1") == ()


def test_ours_goes_ahead_on_an_inner_device(node: Node) -> None:
    index = node.redirection._maps.conf().net_side_ifindex
    with live(node) as says_the_same, ahead(node, "from_net_side", PASS, index):
        (found,) = node.prove("a1")
        assert (found.part, found.ifindex, found.is_mendable) == (Part.INNER_DEVICE, None, True)
        assert "greedy" in found.reason
        node.capture("a1")
        assert node.prove("a1") == () and says_the_same() and is_served(node)


@contextmanager
def dialling(node: Node, address: str) -> Iterator[Callable[[int], bool]]:
    """Dials out of the pod without pause, waiting for no answer; whether it has done so that many times."""
    ends, tried = threading.Event(), itertools.count()
    count = 0

    def work() -> None:
        nonlocal count
        with netns.entered(node.pod("a1").netns):
            while not ends.is_set():
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                    sock.setblocking(False)
                    sock.connect_ex((address, ECHO_PORT))
                count = next(tried)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda times: count >= times
    finally:
        ends.set()
        thread.join()


def test_no_packet_passes_while_ours_goes_ahead(node: Node) -> None:
    """The other one hands all packets on, so what arrives in clear has passed while ours was not there."""
    attachments, index = node.redirection._attachments, ifindex(node)
    address = str(node.lab.pods["lab/b1"].address(4))
    with wire(node) as seen, ahead(node, "from_pod", NEXT) as come_back:
        with dialling(node, address) as has_dialled:
            for times in range(0, 600, 20):
                until(partial(has_dialled, times), "dials")
                come_back()
                with netns.entered(node.place.netns):
                    assert "greedy" in attachments.attached()[index, "from_pod"].ahead
                    attachments.go_ahead(index, "from_pod")
                    assert not attachments.attached()[index, "from_pod"].ahead
        assert seen() == 0
    assert is_served(node)


def crashing(*_: object) -> None:
    raise Crash


STAGES: dict[str, tuple[bool, object, str, int]] = {
    "before the new link": (True, sys_bpf, "link_create", 0),
    "before the new pin": (True, sys_bpf, "obj_pin", 0),
    "between the pins": (True, Path, "rename", 0),
    "with the first filter": (False, rt_writes, "delete_filter", 0),
    "with the second filter": (False, rt_writes, "put_filter", 1),
    "with both again": (False, rt_writes, "delete_filter", 1),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_on_the_way_leaves_the_pod_closed_or_captured(
    node: Node, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_tcx, where, name, after = STAGES[stage]
    if has_tcx != node.has_tcx:
        pytest.skip("another way to attach")
    calls = itertools.count()
    with ahead(node, "from_pod", NEXT):
        create, made = sys_bpf.link_create, []
        with monkeypatch.context() as patch:
            patch.setattr(sys_bpf, "link_create", lambda *args: made.append(create(*args)) or made[-1])
            real = getattr(where, name)
            patch.setattr(where, name, lambda *args: crashing() if next(calls) == after else real(*args))
            with pytest.raises(Crash):
                node.capture("a1")
        for fd in made:
            os.close(fd)
        assert not leaks(node)
        node.redirection.close()
        assert not leaks(node)
        node.redirection = node.successor()
        with netns.entered(node.place.netns):
            node.redirection.prepare()
        # What is of another version, or nowhere, is attached; then it goes ahead.
        assert node.capture("a1")
        node.capture("a1")
        assert node.prove("a1") == () and is_served(node)


def test_who_comes_back_each_time_is_left_there_named_and_the_pod_closed(node: Node) -> None:
    outside = node.lab.pods["lab/b1"]
    with ahead(node, "to_pod", PASS) as come_back:
        for _ in range(MOVES):
            assert [each.is_mendable for each in node.prove("a1")] == [True]
            node.capture("a1")
            assert node.prove("a1") == ()
            come_back()
        node.capture("a1")
        (found,) = node.prove("a1")
        assert (found.part, found.ifindex, found.is_mendable) == (Part.PROGRAM, ifindex(node), False)
        assert "greedy" in found.reason and "the pod is closed" in found.reason and found.remedy
        assert node.capture("a1") == []
        before = node.redirection.passed()
        with pytest.raises(TimeoutError):
            dial(node.pod("a1").netns, outside.address(4), ECHO_PORT, SILENCE_S)
        # It is first on the way in; the answers meet ours.
        with pytest.raises(TimeoutError):
            dial(outside.netns, node.pod("a1").address(4), ECHO_PORT, SILENCE_S)
    assert any(each.is_mendable for each in node.prove("a1"))
    assert node.redirection.passed().inbound > before.inbound, "what it let in all the while"
    node.capture("a1")
    assert node.prove("a1") == () and is_served(node)
