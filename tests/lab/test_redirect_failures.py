"""What fails for one pod stays with that pod, and what is somebody else's is neither overwritten nor removed."""

from __future__ import annotations

import errno
import math
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

import pytest
from pyroute2 import IPRoute

from agent.lab.topology import Topology
from redirect import host_addresses, netns
from redirect.desired import Desired, DesiredPod
from redirect.errors import StepFailed, StepsFailed
from redirect.reconcile import Redirection
from tests.support.labtraffic import Sniffer, until
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

NOWHERE = "203.0.113.7"
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
OUR_HANDLE = 0x7A74
IPV4_BE = 0x0008


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with echoing_lab("hlf", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture
def node(lab: Topology, tmp_path: Path) -> Iterator[Node]:
    """With clsact filters, where others can be in the way."""
    with redirected(lab, "node-a", tmp_path, instance=instance_name("l"), has_tcx=False) as made:
        yield made


def ifindex_of(node: Node, name: str) -> int:
    with netns.entered(node.place.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=node.pod(name).ifname)
        return int(index)


@contextmanager
def qdisc(node: Node, kind: str, *names: str) -> Iterator[IPRoute]:
    """A qdisc of somebody else on the interfaces of these pods; gone afterwards, with what is in it."""
    indexes = [ifindex_of(node, name) for name in names]
    with netns.entered(node.place.netns), IPRoute() as ip:
        for index in indexes:
            ip.tc("add", kind, index=index)
        try:
            yield ip
        finally:
            for index in indexes:
                ip.tc("del", kind, index=index)


def add_foreign(ip: IPRoute, index: int, prog_fd: int, parent: int, **options: int) -> None:
    # tc filter add dev DEV ingress|egress prio 1 ... bpf direct-action
    ip.tc(
        "add-filter", "bpf", index=index, fd=prog_fd, name="foreign", parent=parent,
        classid=1, direct_action=True, prio=1, **options,
    )  # fmt: skip


def filters(ip: IPRoute, index: int, parent: int) -> list[tuple[int, int]]:
    """(handle, priority and protocol) of each."""
    found = ip.get_filters(index=index, parent=parent)
    return [(entry["handle"], entry["info"]) for entry in found if entry.get("options") is not None]


def is_captured(node: Node, name: str) -> bool:
    with closing(dial(node.pod(name).netns, NOWHERE, 80)):
        node.listeners[0].accept()[0].close()
    return True


def echoes_directly(node: Node, name: str) -> bool:
    """Whether a pod's connection reaches another node without the proxy."""
    with closing(dial(node.pod(name).netns, node.lab.pods["lab/b1"].address(4), ECHO_PORT)) as client:
        client.sendall(b"hello")
        return client.recv(64) == b"hello"


def pod_without_interface(node: Node, like: DesiredPod) -> DesiredPod:
    """One that was captured until its interface was deleted. Call it inside the node."""
    with IPRoute() as ip:
        ip.link("add", ifname="hlgone", kind="veth", peer={"ifname": "hlgone2"})
        (index,) = ip.link_lookup(ifname="hlgone")
        gone = replace(like, ifindex=index, ifname="hlgone", addresses=(ip_address("10.9.9.9"),))
        node.redirection.apply(Desired((gone,), host_addresses.local()))
        ip.link("del", index=index)
    return gone


@pytest.mark.parametrize("has_tcx", [True, False], ids=["tcx", "clsact"])
@pytest.mark.parametrize("keep_existing", [False, True], ids=["reset", "keep"])
def test_a_pod_whose_interface_is_gone_does_not_stop_the_others(
    lab: Topology, tmp_path: Path, has_tcx: bool, keep_existing: bool
) -> None:
    with (
        redirected(lab, "node-a", tmp_path, instance=instance_name("g"), has_tcx=has_tcx) as node,
        netns.entered(node.place.netns),
    ):
        wanted = node.desired("a1")
        gone = pod_without_interface(node, wanted.pods[0])
        never = replace(gone, ifindex=99999, ifname="hlnever", addresses=(ip_address("10.9.9.8"),))
        both = Desired((gone, never, *wanted.pods), wanted.host_addresses)
        reasons = [finding.reason for finding in node.redirection.prove(both)]
        assert f"hlgone (interface {gone.ifindex}) is gone" in reasons
        done = node.redirection.apply(
            both, keep_existing={pod.ifindex: math.inf for pod in both.pods} if keep_existing else {}
        )
        assert f"hlgone (interface {gone.ifindex}) is gone: not captured" in done
        assert [place.ifname for place in node.redirection.captured()] == [node.pod("a1").ifname]
        assert set(node.redirection._maps.pods()) == set(wanted.pods[0].addresses)
        assert not [path.name for path in node.redirection.pins.links.glob(f"*{gone.ifindex}*")]
        assert is_captured(node, "a1")


def test_a_pod_that_cannot_be_captured_does_not_stop_the_others(node: Node) -> None:
    with qdisc(node, "ingress", "a1"):
        expected = rf"^{node.pod('a1').ifname}: attach from_pod to interface \d+: it has an `ingress`"
        with pytest.raises(StepFailed, match=expected):
            node.capture("a1", "a2")
        assert is_captured(node, "a2")
        # The rest of the steps of the one that failed was left undone.
        assert set(node.redirection._maps.pods()) == set(node.pod("a2").addresses)
        # And letting one go is not stopped either.
        with pytest.raises(StepFailed, match=expected):
            node.capture("a1")
        assert echoes_directly(node, "a2")
    node.capture("a1")
    assert is_captured(node, "a1")


def test_every_pod_that_failed_is_named(node: Node) -> None:
    with qdisc(node, "ingress", "a1", "a2"), pytest.raises(StepsFailed) as failed:
        node.capture("a1", "a2")
    for name in ("a1", "a2"):
        assert f"{node.pod(name).ifname}: attach from_pod" in str(failed.value)
    assert len(failed.value.failures) == 2


def in_the_way(node: Node, ip: IPRoute, prog_fd: int, parent: int, **options: int) -> None:
    """Refused, named, and as it was before."""
    index = ifindex_of(node, "a1")
    add_foreign(ip, index, prog_fd, parent, **options)
    before = filters(ip, index, parent)
    with pytest.raises(StepFailed, match=r"a `bpf` filter of somebody else at priority 1 .*another priority"):
        node.capture("a1")
    assert filters(ip, index, parent) == before
    node.capture()
    assert filters(ip, index, parent) == before
    assert echoes_directly(node, "a1")


@pytest.mark.parametrize("parent", [INGRESS, EGRESS], ids=["ingress", "egress"])
@pytest.mark.parametrize(
    "options", [{"handle": 7, "protocol": IPV4_BE}, {"handle": OUR_HANDLE}], ids=["protocol", "our handle"]
)
def test_a_foreign_filter_in_our_place_is_refused_and_stays(
    node: Node, parent: int, options: dict[str, int]
) -> None:
    prog_fd = node.redirection.pins.open_program("to_pod")  # lets pass what is not captured
    try:
        with qdisc(node, "clsact", "a1") as ip:
            in_the_way(node, ip, prog_fd, parent, **options)
    finally:
        os.close(prog_fd)


def test_a_captured_pod_stays_closed_when_a_program_cannot_be_put_back(node: Node) -> None:
    prog_fd = node.redirection.pins.open_program("to_pod")
    index = ifindex_of(node, "a1")
    try:
        with qdisc(node, "clsact", "a1") as ip:
            node.capture("a1")
            # tc filter del dev DEV egress prio 1 handle 0x7a74 bpf
            ip.tc("del-filter", "bpf", index=index, handle=OUR_HANDLE, parent=EGRESS, prio=1)
            add_foreign(ip, index, prog_fd, EGRESS, handle=7, protocol=IPV4_BE)
            with pytest.raises(StepFailed, match="attach to_pod"):
                node.capture("a1")
            assert is_captured(node, "a1")
            node.capture()
    finally:
        os.close(prog_fd)


@pytest.mark.parametrize("has_tcx", [True, False], ids=["tcx", "clsact"])
def test_a_side_that_was_made_again_leaves_no_link_of_the_former_one(
    lab: Topology, tmp_path: Path, has_tcx: bool
) -> None:
    with redirected(lab, "node-a", tmp_path, instance=instance_name("s"), has_tcx=has_tcx) as node:
        former = node.redirection._maps.conf().net_side_ifindex
        with netns.entered(node.place.netns), IPRoute() as ip:
            ip.link("del", index=former)
            node.redirection.prepare()
        links = node.redirection.pins.links
        assert node.redirection._maps.conf().net_side_ifindex != former
        assert not [path.name for path in links.iterdir() if str(former) in path.name]
        node.capture("a1")
        assert is_captured(node, "a1")


def is_waited_for(lock: Path) -> bool:
    """By /proc/locks, which marks who waits with an arrow."""
    inode = f":{lock.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_the_lock_excludes_also_when_it_is_removed_while_somebody_waits(tmp_path: Path) -> None:
    """Whoever waited must not end up with a file that nobody else finds."""
    first, second = (Redirection(instance_name("k"), tmp_path).pins for _ in range(2))
    lock = tmp_path / "redirect.lock"
    inside: list[int] = []

    def wait_for_it() -> None:
        with second.locked():
            inside.append(lock.stat().st_ino)

    thread = Thread(target=wait_for_it)
    with first.locked():
        thread.start()
        while thread.is_alive() and not is_waited_for(lock):
            thread.join(0.001)
        assert not inside
        first.remove_files()
    thread.join()
    assert inside == [lock.stat().st_ino]


def test_an_interface_is_closed_off_before_anything_is_known_of_it(node: Node) -> None:
    """Nothing leaves it and nothing enters, and the one that is gone is named without hurting the other."""
    pod = node.pod("a1")
    with netns.entered(node.place.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=pod.ifname)
        with pytest.raises(StepFailed, match=r"hlgone: attach from_pod .*is gone") as failed:
            node.redirection.close_off({index: pod.ifname, 99999: "hlgone"}, {}, {index: "demo/web uid"})
    assert failed.value.ifindex == 99999
    with pytest.raises(TimeoutError):
        dial(pod.netns, node.place.addresses[0], 80, SILENCE_S)
    assert f"capture {pod.address(4)} at interface {index}" in node.capture("a1")
    with closing(dial(pod.netns, "203.0.113.7", 80)):
        node.listeners[0].accept()[0].close()


def test_a_clsact_that_somebody_deletes_is_made_again_and_what_passed_is_told(node: Node) -> None:
    """Its filters go with it, ours among them."""
    index = ifindex_of(node, "a1")
    node.capture("a1")
    assert node.prove("a1") == ()
    with netns.entered(node.place.netns), IPRoute() as ip:
        ip.tc("del", "clsact", index=index)  # tc qdisc del dev DEV clsact
    assert echoes_directly(node, "a1")
    assert {finding.ifindex for finding in node.prove("a1")} == {index}
    done = node.capture("a1")
    assert done[:2] == [f"attach {program} to interface {index}" for program in ("from_pod", "to_pod")]
    assert "was not guarded" in done[2]
    assert is_captured(node, "a1")


def test_no_byte_of_a_pod_reaches_the_one_that_has_its_address_next(node: Node) -> None:
    """While the proxy sends as fast as it can to the pod before."""
    node.capture("a1", "a2")
    address = node.pod("a1").address(4)
    with ExitStack() as stack:
        senders = []
        for _ in range(6):
            client = stack.enter_context(closing(dial(node.pod("a1").netns, NOWHERE, 80)))
            accepted = stack.enter_context(node.listeners[0].accept()[0])
            Thread(target=swallow, args=(client,), daemon=True).start()
            senders.append(Sender(accepted))
        until(lambda: all(sender.sent > 1 << 20 for sender in senders), "all send")
        wire = stack.enter_context(Sniffer(node.pod("a2").netns, str(address), "eth0"))
        with netns.entered(node.place.netns):
            desired = node.desired("a1", "a2")
            first, second = desired.pods
            moved = replace(second, addresses=first.addresses)
            node.redirection.apply(Desired((moved,), desired.host_addresses))
        for sender in senders:
            sender.join()
        assert not wire.frames
        assert {type(sender.ended) for sender in senders} == {ConnectionAbortedError}


class Sender(Thread):
    """Sends on a connection until it ends: `sent` bytes, `ended` how."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self._sock, self.sent, self.ended = sock, 0, OSError()
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.sent += self._sock.send(bytes(65536))
        except OSError as error:
            self.ended = error


def swallow(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(1 << 18):
            pass


def programs_at(node: Node, ifindex: int) -> set[str]:
    """Those of ours that the kernel runs there."""
    attached = node.redirection._attachments.attached()
    return {program for (index, program), each in attached.items() if index == ifindex and each.program_id}


@pytest.mark.parametrize("has_tcx", [True, False], ids=["tcx", "clsact"])
def test_an_interface_number_that_is_used_again_has_nothing_of_the_pod_before(
    lab: Topology, tmp_path: Path, has_tcx: bool
) -> None:
    with (
        redirected(lab, "node-a", tmp_path, instance=instance_name("i"), has_tcx=has_tcx) as node,
        netns.entered(node.place.netns),
        IPRoute() as ip,
    ):
        maps, hosts = node.redirection._maps, host_addresses.local()
        former = pod_without_interface(node, node.desired("a1").pods[0])
        # ip link add hlagain index N type veth peer name hlagain2
        ip.link("add", ifname="hlagain", kind="veth", peer={"ifname": "hlagain2"}, index=former.ifindex)
        try:
            assert maps.iface(former.ifindex) is not None, "nobody has looked yet"
            assert not programs_at(node, former.ifindex)
            later = replace(former, ifname="hlagain", addresses=(ip_address("10.9.9.7"),), owner="demo/later")
            done = node.redirection.apply(Desired((later,), hosts))
            assert f"attach from_pod to interface {former.ifindex}" in done
            assert set(maps.pods()) == {ip_address("10.9.9.7")}
            assert maps.owner(former.ifindex) == "demo/later"
            assert programs_at(node, former.ifindex) == {"from_pod", "to_pod"}
            node.redirection.apply(Desired((), hosts))
            assert maps.iface(former.ifindex) is None and not maps.pods()
        finally:
            ip.link("del", ifname="hlagain")


def test_pins_for_which_there_is_no_room_are_named_and_nobody_is_opened(
    lab: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with redirected(lab, "node-a", tmp_path, instance=instance_name("o"), has_tcx=None) as node:
        node.capture("a1")
        with monkeypatch.context() as broken:
            broken.setattr("redirect.sys_bpf.obj_pin", full)
            shutil.rmtree(node.redirection.pins.generation)
            with pytest.raises(StepFailed, match=r"make a lost pin again.*No space left on device"):
                node.capture("a1")
            assert is_captured(node, "a1")
            assert "map_pods" in " ".join(finding.reason for finding in node.prove("a1"))
        node.capture("a1")
        assert node.prove("a1") == ()
        assert is_captured(node, "a1")
