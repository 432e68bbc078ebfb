"""Another version of the programs takes over: nothing that is captured is opened, dropped or refused meanwhile."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from agent.lab.topology import Topology
from redirect import audit, features, netns, rt_writes, sys_bpf
from redirect.attach import Attachments
from redirect.errors import LayoutMismatch, StepFailed
from redirect.findings import Part
from redirect.layout import HOOK_TO_POD, MAPS, FlowKey, address_key
from redirect.opening import Opening
from redirect.reconcile import Redirection
from tests.support.redirect_lab import (
    ECHO_PORT,
    PATIENCE_S,
    SILENCE_S,
    Node,
    dial,
    echoing_lab,
    instance_name,
    redirected,
)

pytestmark = pytest.mark.kernel

NOWHERE = "203.0.113.7"
OTHER_HASH = "0123456789ab"
KIND_HASH, KIND_SOCKMAP = 1, 15
TC_ACT_UNSPEC = -1


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with echoing_lab("hlu", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture
def node(lab: Topology, tmp_path: Path) -> Iterator[Node]:
    """With one pod captured."""
    with redirected(lab, "node-a", tmp_path, instance=instance_name("v")) as made:
        made.capture("a1")
        yield made


@contextmanager
def next_version(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redirection]:
    """The redirection of a version with other programs, not yet prepared; the caller is inside the node."""
    older = node.redirection
    monkeypatch.setattr("redirect.pins.LAYOUT_HASH", OTHER_HASH)
    with closing(Redirection(older.instance, older.pins.run_dir)) as newer, netns.entered(node.place.netns):
        yield newer


def create_map(kind: int, key_bytes: int, value_bytes: int, entries: int) -> int:
    return sys_bpf.call(0, struct.pack("=IIIII", kind, key_bytes, value_bytes, entries, 0))


def repin(node: Node, name: str, fd: int) -> None:
    """Puts a map in the place of one of the older generation's, and gives the fd back."""
    path = node.redirection.pins.generation / f"map_{name}"
    try:
        path.unlink()
        sys_bpf.obj_pin(fd, path)
    finally:
        os.close(fd)


def is_served_outbound(node: Node, name: str = "a1", timeout_s: float = PATIENCE_S) -> bool:
    with closing(dial(node.pod(name).netns, NOWHERE, 80, timeout_s)):
        node.listeners[0].accept()[0].close()
    return True


def test_the_next_version_serves_with_the_listeners_and_flows_of_the_one_before(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = node.redirection
    flow = FlowKey(*node.pod("a1").addresses[:1] * 2, 1, 2, 6, HOOK_TO_POD)
    older._maps.put_opening(4242, Opening(7, 5, who="somebody", reason="an interface that nobody has"))
    older._maps.put_open_until(7)
    with closing(dial(node.pod("a1").netns, NOWHERE, 80)) as client:
        accepted, _ = node.listeners[0].accept()
        with accepted, next_version(node, monkeypatch) as newer:
            assert newer.prepare().compiled
            assert newer.pins.generations() == [newer.pins.generation]
            # What somebody has opened neither ends nor lasts longer by it.
            assert newer._maps.openings()[4242] == Opening(
                7, 5, who="somebody", reason="an interface that nobody has"
            )
            assert newer._maps.open_until_ns() == 7
            assert [place.addresses for place in newer.captured()] == [node.pod("a1").addresses]
            assert newer.prove(node.desired("a1")) == ()
            # Before anybody gave it a listener: those of the workers that still run.
            assert newer.slots() == (True, True, True)
            assert is_served_outbound(node)
            with closing(dial(node.lab.pods["lab/b1"].netns, node.pod("a1").address(4), ECHO_PORT)):
                node.listeners[2].accept()[0].close()
            client.sendall(b"still there")
            accepted.settimeout(5)
            assert accepted.recv(64) == b"still there"
            # What the older programs noted while they were swapped is known to the new ones.
            sys_bpf.map_update(older._maps._fds["hostflows"], flow.encode(), bytes(8))
            assert flow in dict(newer._maps.host_flows())


def test_new_connections_are_served_all_the_while(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """No SYN has to be sent twice: the first repetition comes after a second."""
    pod, dialled = node.pod("a1").netns, 0
    attach = Attachments.attach

    def dial_and_attach(attachments: Attachments, ifindex: int, program: str) -> None:
        nonlocal dialled
        with closing(dial(pod, NOWHERE, 80, SILENCE_S)):
            node.listeners[0].accept()[0].close()
            dialled += 1
        attach(attachments, ifindex, program)

    monkeypatch.setattr(Attachments, "attach", dial_and_attach)
    with next_version(node, monkeypatch) as newer:
        newer.prepare()
    assert dialled == 4  # before each of two programs of the sides and two of the pod
    assert is_served_outbound(node)


class Crash(BaseException):
    """In place of a SIGKILL: nobody handles it."""


@contextmanager
def crashing(where: object, name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(where, name, Mock(side_effect=Crash))
        yield


def test_pods_that_are_filters_in_haste_are_served_while_another_version_takes_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel with tcx. One is a filter yet, the other was about to become a link when the agent ended."""
    if not features.has_tcx():
        pytest.skip("this kernel has no tcx: all are filters")
    attach, dialled = Attachments.attach, []

    def dial_and_attach(attachments: Attachments, ifindex: int, program: str) -> None:
        dialled.extend(name for name in pods if is_served_outbound(node, name, SILENCE_S))
        attach(attachments, ifindex, program)

    pods = ("a1", "a2")
    node.capture()
    with monkeypatch.context() as many:
        many.setattr("redirect.attach.MANY", 0)
        node.capture(*pods)
    attachments = node.redirection._attachments
    with netns.entered(node.place.netns):
        _, half = (socket.if_nametoindex(node.pod(name).ifname) for name in pods)
        with crashing(rt_writes, "delete_filter"):
            attachments.settle(half, "from_pod")
        with crashing(sys_bpf, "link_create"):
            attachments.settle(half, "to_pod")
        older = attachments.attached()
    assert len(older) == 6 and sum(each.is_provisional for each in older.values()) == 3
    monkeypatch.setattr(Attachments, "attach", dial_and_attach)
    with next_version(node, monkeypatch) as newer:
        assert newer.prepare().compiled
        # Before each of two programs of the sides, and two of each pod.
        assert sorted(dialled) == sorted(pods * 6)
        assert newer.prove(node.desired(*pods)) == ()
        settled = newer._attachments.attached()
        assert not {each.program_id for each in settled.values()} & {
            each.program_id for each in older.values()
        }
        while newer.settling.left:
            newer.settling.turn(0)
        assert newer.prove(node.desired(*pods)) == ()
        assert not any(each.is_provisional for each in newer._attachments.attached().values())
        for name in pods:
            assert is_served_outbound(node, name)
            with closing(dial(node.lab.pods["lab/b1"].netns, node.pod(name).address(4), ECHO_PORT)):
                node.listeners[2].accept()[0].close()


def test_a_program_that_cannot_be_swapped_stops_no_other_pod(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.capture("a1", "a2")
    attach = Attachments.attach
    with netns.entered(node.place.netns):
        stuck = socket.if_nametoindex(node.pod("a1").ifname)

    def attach_but_one(attachments: Attachments, ifindex: int, program: str) -> None:
        if ifindex == stuck:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        attach(attachments, ifindex, program)

    with next_version(node, monkeypatch) as newer:
        with monkeypatch.context() as broken:
            broken.setattr(Attachments, "attach", attach_but_one)
            newer.prepare()
            with pytest.raises(StepFailed, match=rf"^{node.pod('a1').ifname}: attach from_pod .*busy"):
                newer.apply(node.desired("a1", "a2"))
        found = newer.prove(node.desired("a1", "a2"))
        assert {(each.part, each.ifindex) for each in found} == {(Part.PROGRAM, stuck)}
        assert is_served_outbound(node, "a1")
        assert is_served_outbound(node, "a2")
        newer.apply(node.desired("a1", "a2"))
        assert newer.prove(node.desired("a1", "a2")) == ()


def test_slots_of_another_shape_stay_closed_until_there_are_listeners(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    repin(node, "socks", create_map(KIND_SOCKMAP, 4, 8, MAPS["socks"].max_entries + 1))
    with next_version(node, monkeypatch) as newer:
        newer.prepare()
        assert newer.slots() == (False, False, False)
        with pytest.raises(TimeoutError):
            dial(node.pod("a1").netns, node.lab.pods["lab/b1"].address(4), ECHO_PORT, SILENCE_S)
        newer.set_listeners(node.fds)
        assert is_served_outbound(node)


def test_a_map_of_another_capacity_is_copied(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = node.redirection._maps.pods()
    smaller = create_map(KIND_HASH, MAPS["pods"].key_bytes, MAPS["pods"].value_bytes, len(pods))
    for address, entry in pods.items():
        sys_bpf.map_update(smaller, address_key(address), entry.encode())
    repin(node, "pods", smaller)
    with next_version(node, monkeypatch) as newer:
        newer.prepare()
        assert newer._maps.pods() == pods
        assert is_served_outbound(node)


def test_pods_of_another_layout_stop_the_agent_instead_of_being_opened(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider_bytes = MAPS["ifaces"].value_bytes + 8
    wider = create_map(KIND_HASH, 4, wider_bytes, 8)
    sys_bpf.map_update(wider, struct.pack("=I", 1), bytes(wider_bytes))
    repin(node, "ifaces", wider)
    older = node.redirection
    with next_version(node, monkeypatch) as newer:
        attached = older._attachments.attached()
        with pytest.raises(LayoutMismatch, match=rf"map ifaces in the kernel has .* {wider_bytes} bytes"):
            newer.prepare()
        assert newer.pins.generations() == [older.pins.generation]
        assert newer._attachments.attached() == attached
    assert is_served_outbound(node)


def replace_programs(node: Node) -> None:
    """Somebody has programs of the same names that let everything past pinned and attached in the place of ours."""
    pins = node.redirection.pins
    for path in pins.generation.glob("prog_*_pod"):
        name = path.name.removeprefix("prog_")
        other = sys_bpf.load_verdict(name, TC_ACT_UNSPEC)
        try:
            path.unlink()
            sys_bpf.obj_pin(other, path)
            for link in pins.links.glob(f"*-{name}"):
                fd = sys_bpf.obj_get(link)
                sys_bpf.link_update(fd, other)
                os.close(fd)
        finally:
            os.close(other)


@pytest.mark.parametrize("layout", ["the same", "another"])
def test_an_agent_that_begins_has_the_programs_of_its_own_build_in_the_place_of_any_others(
    node: Node, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    if not node.redirection._attachments.uses_links:
        pytest.skip("needs tcx, whose links can be given another program")
    with closing(dial(node.pod("a1").netns, NOWHERE, 80)) as client:
        accepted, _ = node.listeners[0].accept()
        # The agent ends before: what it holds it would pin again.
        node.redirection.close()
        replace_programs(node)
        with accepted, ExitStack() as entered:
            if layout == "another":
                newer = entered.enter_context(next_version(node, monkeypatch))
                monkeypatch.setattr("redirect.built.LAYOUT_HASH", OTHER_HASH)
            else:
                newer = entered.enter_context(closing(node.successor()))
                entered.enter_context(netns.entered(node.place.netns))
            there = node.lab.pods["lab/b1"].address(4)
            with closing(dial(node.pod("a1").netns, there, ECHO_PORT)) as in_clear:
                in_clear.sendall(b"past the mesh")
                assert in_clear.recv(64) == b"past the mesh"
            assert newer.prepare().compiled
            assert newer.pins.generations() == [newer.pins.generation]
            assert newer.prove(node.desired("a1")) == () and newer.built_elsewhere() == []
            running = {one.tag for hook in audit.running(newer, [own(node)]) for one in hook.programs}
            built = json.loads(newer.pins.tags.read_text())[newer.pins.generation.name]
            assert running == {
                built[name] for name in ("from_pod", "to_pod", "from_pod_side", "from_net_side")
            }
            assert is_served_outbound(node)
            client.sendall(b"still there")
            accepted.settimeout(5)
            assert accepted.recv(64) == b"still there"
            assert not newer.prepare().compiled, "what was built here is found again"
            if layout == "the same":
                # Without the note of what was built here nothing tells ours from others of the same names.
                newer.pins.tags.write_text("[]")
                (found,) = newer.built_elsewhere()
                assert str(newer.pins.tags) in found.reason and "builds them anew" in found.remedy
                before = newer.stats()
                assert newer.prepare().compiled and newer.built_elsewhere() == []
                after = newer.stats()
                assert any(before.values()) and all(after[key] >= before[key] for key in before), (
                    "its figures went back"
                )
                assert newer.prove(node.desired("a1")) == () and is_served_outbound(node)


def own(node: Node) -> int:
    """The interface of the captured pod, inside the node."""
    return socket.if_nametoindex(node.pod("a1").ifname)
