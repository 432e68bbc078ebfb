"""Many pods at once on a kernel that has tcx: their programs are filters first, and become links beneath traffic."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from agent.lab.topology import Topology
from redirect import attach, features, netns, rt_writes, sys_bpf, tc_rows
from redirect.errors import StepFailed
from redirect.findings import Part
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

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        os.geteuid() != 0 or not features.has_tcx(), reason="this kernel has no tcx: all are filters"
    ),
]

PORT = 9
"""Of datagrams, which pass both programs."""
ROUNDS, AT_LEAST = 4, 40
NEXT = -1


class Crash(BaseException):
    """In place of a SIGKILL: nobody handles it."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with echoing_lab("hgh", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture(scope="module")
def bare(lab: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with redirected(
        lab, "node-a", tmp_path_factory.mktemp("h"), instance=instance_name("h"), has_tcx=True
    ) as made:
        yield made


@pytest.fixture
def node(bare: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """With one pod captured as one of many."""
    monkeypatch.setattr(attach, "MANY", 0)
    bare.listen()
    bare.capture("a1")
    assert runs_by(bare) == {"from_pod": "clsact", "to_pod": "clsact"}
    assert bare.prove("a1") == () and bare.capture("a1") == []
    yield bare
    bare.capture()
    assert runs_by(bare) == {}
    with netns.entered(bare.place.netns):
        assert "clsact" not in tc_rows.ingress_qdiscs().values()


def ifindex(node: Node) -> int:
    with netns.entered(node.place.netns):
        return socket.if_nametoindex(node.pod("a1").ifname)


def runs_by(node: Node) -> dict[str, str]:
    with netns.entered(node.place.netns):
        found = node.redirection._attachments.attached_at(ifindex(node))
    return {program: "clsact" if each.is_provisional else "tcx" for (_, program), each in found.items()}


def settle(node: Node) -> None:
    assert node.prove("a1") == ()
    with netns.entered(node.place.netns):
        while node.redirection.settling.left:
            node.redirection.settling.turn(0)
    assert runs_by(node) == {"from_pod": "tcx", "to_pod": "tcx"}
    assert node.prove("a1") == () and node.capture("a1") == []


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
def talking(namespace: Path, to: Path, address: str) -> Iterator[list[int]]:
    """Datagrams one after another: [sent, arrived], where none of them may be lost on the way."""
    count = [0, 0]
    ends = threading.Event()
    with netns.entered(to):
        there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with netns.entered(namespace):
        here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with here, there:
        there.bind(("", PORT))
        there.settimeout(SILENCE_S)

        def work() -> None:
            while not ends.is_set():
                here.sendto(b"%d" % count[0], (address, PORT))
                count[0] += 1
                with suppress(TimeoutError):
                    there.recv(64)
                    count[1] += 1

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield count
        finally:
            ends.set()
            thread.join()
            # Of a busy machine one may have come later than it was waited for.
            with suppress(TimeoutError):
                while count[1] < count[0]:
                    there.recv(64)
                    count[1] += 1


@contextmanager
def answered(node: Node) -> Iterator[Callable[[], int]]:
    """An inbound connection whose answers leave in the pod's name, with a mark; how often it has been answered."""
    count = 0
    ends = threading.Event()
    outside = node.lab.pods["lab/b1"]
    with closing(dial(outside.netns, node.pod("a1").address(4), ECHO_PORT)) as client:
        accepted, _ = node.listeners[2].accept()
        with accepted:

            def work() -> None:
                nonlocal count
                while not ends.is_set():
                    client.sendall(b"there")
                    accepted.recv(64)
                    accepted.sendall(b"back")
                    client.recv(64)
                    count += 1

            thread = threading.Thread(target=work)
            thread.start()
            try:
                yield lambda: count
            finally:
                ends.set()
                thread.join()


def test_each_packet_meets_one_of_the_two(node: Node) -> None:
    """Neither none of them, as it would be counted nowhere, nor both, as it would be counted twice."""
    pod, outside = node.pod("a1"), node.lab.pods["lab/b1"]
    for _ in range(ROUNDS):
        before = passed(node)
        with (
            talking(pod.netns, outside.netns, str(outside.address(4))) as out,
            talking(outside.netns, pod.netns, str(pod.address(4))) as back,
        ):
            until(partial(have_sent, out, back, AT_LEAST), "datagrams, before")
            settle(node)
            until(partial(have_sent, out, back, max(out[0], back[0]) + AT_LEAST), "datagrams, after")
        assert out[0] == out[1] and back[0] == back[1]
        assert [now - then for now, then in zip(passed(node), before, strict=True)] == [out[0], back[0]]
        node.capture()
        node.capture("a1")
        assert runs_by(node) == {"from_pod": "clsact", "to_pod": "clsact"}


def have_sent(out: list[int], back: list[int], least: int) -> bool:
    return out[0] > least and back[0] > least


def passed(node: Node) -> list[int]:
    """Datagrams that both programs have let pass."""
    stats = node.redirection.stats()
    return [stats[program, "UDP_PASS"] for program in ("from_pod", "to_pod")]


def test_what_is_carried_goes_on(node: Node) -> None:
    """What leaves in the pod's name has a mark that the first of the two takes off: the second would capture it."""
    with answered(node) as times:
        until(lambda: times() > AT_LEAST, "answers, before")
        settle(node)
        so_far = times()
        until(lambda: times() > so_far + AT_LEAST, "answers, after")
    assert is_served(node)


def crashing(*_: object) -> None:
    raise Crash


STAGES: dict[str, tuple[object, str]] = {
    "before the link": (sys_bpf, "link_create"),
    "before its pin": (sys_bpf, "obj_pin"),
    "with both": (rt_writes, "delete_filter"),
    "with a link that ends": (sys_bpf, "link_update"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_on_the_way_is_made_whole_by_the_next(
    node: Node, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name = STAGES[stage]
    create, made = sys_bpf.link_create, []
    assert node.prove("a1") == ()
    with monkeypatch.context() as patch, netns.entered(node.place.netns):
        patch.setattr(sys_bpf, "link_create", lambda *args: made.append(create(*args)) or made[-1])
        patch.setattr(where, name, crashing)
        with pytest.raises(Crash):
            node.redirection.settling.turn(0)
    assert is_served(node)
    node.redirection.close()
    for fd in made:
        with suppress(OSError):
            os.close(fd)
    assert is_served(node)
    node.redirection = node.successor()
    with netns.entered(node.place.netns):
        node.redirection.prepare()
    node.capture("a1")
    assert is_served(node)
    settle(node)
    assert is_served(node)


def test_a_filter_that_the_kernel_keeps_cuts_nobody_off_and_is_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its link captures in its stead; the next that looks takes it out."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    assert node.prove("a1") == ()
    with monkeypatch.context() as broken, netns.entered(node.place.netns):
        broken.setattr(rt_writes, "delete_filter", refused)
        node.redirection.settling.turn(0)
        assert is_served(node)
        (found,) = node.prove("a1")
        assert "from_pod is not attached" in found.reason and found.is_mendable
        with pytest.raises(StepFailed, match="No buffer space"):
            node.capture("a1")
        assert is_served(node)
    node.capture("a1")
    settle(node)
    assert is_served(node)


def test_a_clsact_of_somebody_else_stays_whatever_a_mark_says(node: Node) -> None:
    """Ours went with its filters, and theirs came in its place before anybody looked."""
    index, links = ifindex(node), node.redirection.pins.links
    settle(node)
    node.redirection.close()
    node.redirection = node.successor()
    with netns.entered(node.place.netns):
        rt_writes.delete_clsact(index)
        rt_writes.add_clsact(index)
        assert (links / f"clsact-{index}").is_dir()
        node.redirection.prepare()
    node.capture()
    with netns.entered(node.place.netns):
        assert tc_rows.ingress_qdiscs().get(index) == "clsact"
        assert not (links / f"clsact-{index}").is_dir()
        rt_writes.delete_clsact(index)


@contextmanager
def foreign(node: Node, *, is_link: bool) -> Iterator[int]:
    """Somebody else's program, behind a filter of ours or, as a link, before it; its number."""
    fd = sys_bpf.load_verdict("foreign", NEXT)
    index = ifindex(node)
    try:
        with netns.entered(node.place.netns):
            if is_link:
                link = sys_bpf.link_create(fd, index, sys_bpf.BPF_TCX_INGRESS)
            else:
                rt_writes.put_filter(index, tc_rows.CLSACT_INGRESS, 7, 7, fd, "foreign.o")
        yield sys_bpf.prog_info(fd).id
        with netns.entered(node.place.netns):
            if is_link:
                sys_bpf.link_detach(link)
                os.close(link)
            else:
                rt_writes.delete_filter(index, tc_rows.CLSACT_INGRESS, 7, 7)
    finally:
        os.close(fd)


def test_who_comes_by_tcx_is_behind_ours_at_once(node: Node) -> None:
    with foreign(node, is_link=True) as number:
        (found,) = node.prove("a1")
        assert (found.part, found.is_mendable) == (Part.PROGRAM, True) and "foreign" in found.reason
        node.capture("a1")
        assert runs_by(node) == {"from_pod": "tcx", "to_pod": "clsact"}
        settle(node)
        with netns.entered(node.place.netns):
            assert sys_bpf.prog_query(ifindex(node), sys_bpf.BPF_TCX_INGRESS)[1:] == [number]
        assert is_served(node)


def test_who_has_a_filter_behind_ours_keeps_it(node: Node) -> None:
    with foreign(node, is_link=False) as number, answered(node) as times:
        settle(node)
        so_far = times()
        until(lambda: times() > so_far + AT_LEAST, "answers, after")
        with netns.entered(node.place.netns):
            rows = tc_rows.filters(ifindex(node), tc_rows.CLSACT_INGRESS)
        assert [row.program_id for row in rows] == [number]


def test_where_somebody_has_a_qdisc_it_is_a_link_however_many_there_are(node: Node) -> None:
    node.capture()
    with netns.entered(node.place.netns):
        rt_writes.add_clsact(ifindex(node))
    node.capture("a1")
    assert runs_by(node) == {"from_pod": "tcx", "to_pod": "tcx"}
    with netns.entered(node.place.netns):
        rt_writes.delete_clsact(ifindex(node))
