"""Pins, filters and names that somebody removes: nothing is detached meanwhile, and they are made again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from agent.lab.blueprint import generate, parse
from agent.lab.topology import Topology
from redirect import host_addresses, netns, rt_writes, sys_bpf, tc_rows
from redirect.errors import InstanceInUse
from redirect.layout import GUARDS
from redirect.locate import locate
from redirect.pins import Pins
from tests.support.attached import links_in
from tests.support.labtraffic import until
from tests.support.redirect_lab import SILENCE_S, Node, dial, instance_name, redirected, remove_pins

pytestmark = pytest.mark.kernel

PORT = 8080
PROBES = (sys.executable, "-m", "agent.lab.probes")
SIDE_PROGRAMS = {"mo": "from_pod_side", "mi": "from_net_side"}
CLSACT_PARENTS = (0xFFFFFFF2, 0xFFFFFFF3)
TC_ACT_OK = 0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    topology = Topology(f"hlp{os.getpid()}", tmp_path_factory.mktemp("run"))
    try:
        topology.up(parse(generate(2)))
        for pod in topology.pods.values():
            topology.processes.start_ready(pod.name, pod.netns, [*PROBES, "echo", "--port", str(PORT)])
        yield topology
    finally:
        topology.down()


@pytest.fixture(params=[True, False], ids=["tcx", "clsact"])
def node(lab: Topology, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """With one pod captured."""
    with redirected(lab, "node-a", tmp_path, instance=instance_name("p"), has_tcx=request.param) as made:
        made.capture("a1")
        yield made


def is_captured(node: Node, name: str = "a1") -> bool:
    """Whether a connection of a pod, to where it could go without the proxy, comes to the proxy instead."""
    with closing(dial(node.pod(name).netns, node.lab.pods["lab/b1"].address(4), PORT)):
        node.listeners[0].accept()[0].close()
    return True


def pinned(pins: Pins) -> set[str]:
    return {str(path.relative_to(pins.root)) for path in pins.root.rglob("*")}


def one_link(pins: Pins) -> None:
    next(path for path in pins.links.iterdir() if not path.is_dir()).unlink()


LOSSES: dict[str, Callable[[Pins], None]] = {
    "a link": one_link,
    "links": lambda pins: shutil.rmtree(pins.links),
    "generation": lambda pins: shutil.rmtree(pins.generation),
    "instance": lambda pins: remove_pins(pins.root),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_removed_pins_open_nobody_and_are_made_again(node: Node, loss: str) -> None:
    redirection = node.redirection
    before = pinned(redirection.pins)
    LOSSES[loss](redirection.pins)
    lost = before - pinned(redirection.pins)
    objects = {path.rpartition("/")[2] for path in lost if "_" in path}
    assert is_captured(node)
    done = node.capture("a1", "a2")
    pins_made_again = {line.split()[1] for line in done if line.startswith("pin ")}
    assert pins_made_again == objects != set()
    assert before < pinned(redirection.pins)
    assert is_captured(node, "a2")
    assert not [line for line in node.capture("a1", "a2") if line.startswith("pin ")]
    # What the next process finds is all of it, and holds without this one.
    redirection.close()
    assert is_captured(node)
    with closing(node.successor()) as following, netns.entered(node.place.netns):
        assert not following.prepare().compiled
        assert following.prove(node.desired("a1", "a2")) == ()


def test_a_generation_that_nobody_held_is_found_again_through_the_programs_that_are_attached(
    node: Node,
) -> None:
    """Else the next agent would know of no pod, and let all of them go."""
    redirection, pins = node.redirection, node.redirection.pins
    redirection.close()
    shutil.rmtree(pins.generation)
    with closing(node.successor()) as following:
        with netns.entered(node.place.netns):
            assert following.prepare().compiled
            assert [place.ifname for place in following.captured()] == [node.pod("a1").ifname]
            assert following.prove(node.desired("a1")) == ()
        assert is_captured(node)
        assert following.pins.generations() == [pins.generation]


def test_with_all_pins_removed_while_nobody_holds_them_pods_are_closed_and_found_again(node: Node) -> None:
    """A tcx link ends with its pin and its holders, and with it a capture; a guard behind it lives in the device.

    Also where somebody has put a filter before it that lets everything pass: `tc filter add ... prio 1 bpf da`.
    """
    redirection, far = node.redirection, node.lab.pods["lab/b1"]
    if not node.has_tcx:
        pytest.skip("filters live in their device: nothing opens")
    with netns.entered(node.place.netns):
        index = locate(netns=node.pod("a1").netns).ifindex
        assert redirection.keep_guards() == [f"put {guard} at interface {index}" for guard in GUARDS]
        assert redirection.keep_guards() == []
        with closing(os.fdopen(sys_bpf.load_verdict("passes", TC_ACT_OK))) as passes:
            for parent in CLSACT_PARENTS:
                rt_writes.put_filter(index, parent, 1, 0x77, passes.fileno(), "passes.o")
        for guard, line in zip(GUARDS, redirection.keep_guards(), strict=True):
            assert line.startswith(f"put {guard} of interface {index} before filter passes.o")
        assert redirection.keep_guards() == [] and redirection.prove(node.desired("a1")) == ()
        remove_pins(redirection.pins.root)
        redirection._let_go()
        until(lambda: links_in(node.place.netns) == 0, "nothing holds the links")
    for one, other in ((node.pod("a1"), far), (far, node.pod("a1"))):
        with pytest.raises(TimeoutError):
            dial(one.netns, other.address(4), PORT, SILENCE_S)
    with closing(node.successor()) as following, netns.entered(node.place.netns):
        assert following.prepare().compiled
        assert [place.ifname for place in following.captured()] == [node.pod("a1").ifname]
        following.apply(node.desired("a1"))
        # What serves has not ended: the listeners of before are those of the next.
        assert following.prove(node.desired("a1")) == ()
        assert len(following.keep_guards()) == len(GUARDS), "those of this generation"
        assert is_captured(node)
        for parent in CLSACT_PARENTS:
            rt_writes.delete_filter(index, parent, 1, 0x77)
        # One that was captured no longer is not closed, and no guard stays.
        following.apply(node.desired())
        following.keep_guards()
        assert not any(tc_rows.filters(index, parent) for parent in CLSACT_PARENTS)
    dial(node.pod("a1").netns, far.address(4), PORT).close()


@pytest.mark.parametrize("node", [True], indirect=True, ids=["tcx"])
def test_the_command_of_a_rollback_takes_off_all_guards_and_opens_nobody(node: Node) -> None:
    """As a build does that knows of none: programs that note nothing, and entries as they were."""
    text = (ROOT / "docs" / "OPERATIONS.md").read_text().partition("### Rolled back")[2]
    command = text.partition("```sh\n")[2].partition("```")[0]
    with netns.entered(node.place.netns):
        index = locate(netns=node.pod("a1").netns).ifindex
        assert len(node.redirection.keep_guards()) == len(GUARDS)
        fd = sys_bpf.load_verdict("ztun_older", sys_bpf.TC_ACT_UNSPEC)
        sys_bpf.link_update(node.redirection._attachments._links._held[f"{index}-from_pod"], fd)
        os.close(fd)
        assert not reaches(node), "its guard drops what an older program lets pass"
        subprocess.run(["sh", "-c", command], check=True, timeout=30)
        assert not any(tc_rows.filters(index, parent) for parent in CLSACT_PARENTS)
        assert reaches(node)
        node.capture("a1")
        assert is_captured(node) and len(node.redirection.keep_guards()) == len(GUARDS)


def reaches(node: Node) -> bool:
    """Whether what the pod sends goes past its hook: in clear, as the programs of this test's older build let it."""
    far = node.lab.pods["lab/b1"]
    with netns.entered(far.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("", 7777))
        there.settimeout(SILENCE_S)
        with netns.entered(node.pod("a1").netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            for _ in range(3):
                here.sendto(b"?", (str(far.address(4)), 7777))
                with suppress(TimeoutError):
                    return there.recv(8) == b"?"
    return False


def test_a_namespace_without_its_name_lives_on_and_is_named_again(node: Node) -> None:
    redirection = node.redirection
    namespaces = redirection.private_namespaces
    known = [netns.inode(path) for path in namespaces]
    netns.remove(namespaces[0].name)
    # Somebody made another of that name.
    netns.remove(namespaces[1].name)
    netns.ensure(namespaces[1].name)
    assert is_captured(node)
    assert node.capture("a1") == [
        f"made again: the name {path} is gone or leads elsewhere; the namespace lives" for path in namespaces
    ]
    assert [netns.inode(path) for path in namespaces] == known
    assert node.prove("a1") == ()
    assert is_captured(node)


@pytest.mark.parametrize("loss", ["names", "names and pins"])
def test_a_namespace_that_nobody_can_name_again_is_replaced_at_the_next_start(node: Node, loss: str) -> None:
    """Sockets hold it, its device stays, and the next start failed for ever."""
    redirection = node.redirection
    for path in redirection.private_namespaces:
        netns.remove(path.name)
        path.touch()  # as after a crash between the file and the mount
    redirection._let_go()
    if loss == "names and pins":
        with netns.entered(node.place.netns), IPRoute() as ip:
            for side in redirection._foundation.sides:
                (index,) = ip.link_lookup(ifname=side.ifname)
                redirection._attachments.detach(index, SIDE_PROGRAMS[side.ifname[-2:]])
        shutil.rmtree(redirection.pins.links)
        redirection.pins.links.mkdir()
    with closing(node.successor()) as following:
        with netns.entered(node.place.netns):
            following.prepare()
            following.apply(node.desired("a1"))
        node.listen()
        with netns.entered(node.place.netns):
            assert following.prove(node.desired("a1")) == ()
        assert is_captured(node)


def test_a_device_with_programs_of_another_agent_is_not_deleted(node: Node) -> None:
    redirection = node.redirection
    side = redirection._foundation.sides[0]
    for path in redirection.private_namespaces:
        netns.remove(path.name)
    # Behind another mount: it may be one itself, which cannot be renamed.
    netns.call("mount", b"tmpfs", bytes(redirection.pins.root), b"tmpfs", 0, None)
    try:
        with (
            closing(node.successor()) as other,
            netns.entered(node.place.netns),
            pytest.raises(
                InstanceInUse, match=rf"device {side.ifname} runs programs whose pins are not seen"
            ),
        ):
            other.prepare()
        assert is_captured(node)
    finally:
        netns.call("umount2", bytes(redirection.pins.root), netns.MNT_DETACH)
        node.capture("a1")


def test_news_of_a_removed_filter_arrive_and_it_is_attached_again(lab: Topology, tmp_path: Path) -> None:
    with redirected(lab, "node-a", tmp_path, instance=instance_name("n"), has_tcx=False) as node:
        node.capture("a1")
        with netns.entered(node.place.netns), closing(host_addresses.Watch()) as watch, IPRoute() as ip:
            (index,) = ip.link_lookup(ifname=node.pod("a1").ifname)
            # tc filter del dev DEV ingress; tc filter del dev DEV egress
            for parent in CLSACT_PARENTS:
                ip.tc("del-filter", index=index, parent=parent)
            assert watch.read().news == {host_addresses.News.FILTERS}
            assert node.capture("a1") == [
                f"attach {program} to interface {index}" for program in ("from_pod", "to_pod")
            ]
        assert is_captured(node)
