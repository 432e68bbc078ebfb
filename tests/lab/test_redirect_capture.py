"""Capture in the kernel, end to end: real pods, real connections, and plain listeners in place of the proxy."""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest
from pyroute2 import IPRoute

from agent.lab.topology import Topology
from redirect import existing, netns, past_proxy, reconcile
from redirect.attach import Attachments
from redirect.entries import iface_entry
from redirect.errors import InstanceInUse, MapFull, StepFailed
from redirect.layout import Flag
from redirect.maps import Maps
from redirect.reconcile import Redirection
from tests.support.labtraffic import until
from tests.support.queues import limited
from tests.support.redirect_lab import (
    ECHO_PORT,
    SILENCE_S,
    Node,
    dial,
    echoing_lab,
    instance_name,
    plain,
    redirected,
)

pytestmark = pytest.mark.kernel

NOWHERE = {4: "203.0.113.7", 6: "2001:db8::7"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with echoing_lab("hg", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture(scope="module", params=[True, False], ids=["tcx", "clsact"])
def prepared(
    request: pytest.FixtureRequest, lab: Topology, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    run_dir = tmp_path_factory.mktemp("redirect")
    with redirected(lab, "node-a", run_dir, instance=instance_name("a"), has_tcx=request.param) as node:
        yield node


@pytest.fixture
def node(prepared: Node) -> Iterator[Node]:
    """Listeners open, nothing captured."""
    prepared.listen()
    yield prepared
    prepared.capture()


def says_the_same(client: socket.socket, server: socket.socket) -> bool:
    """Whether bytes pass both ways."""
    server.settimeout(5)
    client.sendall(b"to the server")
    server.sendall(b"to the client")
    return server.recv(64) == b"to the server" and client.recv(64) == b"to the client"


def echoes(client: socket.socket) -> bool:
    client.sendall(b"hello")
    return client.recv(64) == b"hello"


@FAMILIES
def test_a_connection_of_a_pod_meets_the_outbound_listener_with_its_addresses(
    node: Node, family: int
) -> None:
    node.capture("a1")
    with closing(dial(node.pod("a1").netns, NOWHERE[family], 80)) as client:
        accepted, peer = node.listeners[0].accept()
        with accepted:
            assert plain(accepted.getsockname()) == (NOWHERE[family], 80)
            assert plain(peer) == (str(node.pod("a1").address(family)), client.getsockname()[1])
            assert says_the_same(client, accepted)


@FAMILIES
@pytest.mark.parametrize(("port", "slot"), [(15008, 1), (ECHO_PORT, 2)], ids=["hbone", "plaintext"])
@pytest.mark.parametrize("client_pod", ["b1", "a2"], ids=["other node", "same node"])
def test_a_connection_to_a_pod_meets_its_inbound_listener(
    node: Node, client_pod: str, port: int, slot: int, family: int
) -> None:
    node.capture("a1")
    address = str(node.pod("a1").address(family))
    with closing(dial(node.pod(client_pod).netns, address, port)) as client:
        accepted, peer = node.listeners[slot].accept()
        with accepted:
            assert plain(accepted.getsockname()) == (address, port)
            assert plain(peer)[0] == str(node.pod(client_pod).address(family))
            assert says_the_same(client, accepted)


@FAMILIES
def test_a_pod_that_is_not_enrolled_is_untouched(node: Node, family: int) -> None:
    node.capture("a1")
    for client, server in (("a2", "b1"), ("b1", "a2")):
        with closing(dial(node.pod(client).netns, node.pod(server).address(family), ECHO_PORT)) as connection:
            assert echoes(connection)


@FAMILIES
def test_the_node_itself_reaches_a_captured_pod(node: Node, family: int) -> None:
    node.capture("a1")
    with closing(dial(node.place.netns, node.pod("a1").address(family), ECHO_PORT)) as connection:
        assert echoes(connection)


@FAMILIES
@pytest.mark.parametrize("client", ["a1", "b1"], ids=["out of the pod", "into the pod"])
def test_without_a_listener_new_connections_meet_silence_and_wait(
    node: Node, client: str, family: int
) -> None:
    node.capture("a1")
    node.deafen()
    target, port = (NOWHERE[family], 80) if client == "a1" else (node.pod("a1").address(family), ECHO_PORT)
    with pytest.raises(TimeoutError):
        dial(node.pod(client).netns, target, port, SILENCE_S)
    node.listen()
    # The same connection comes through once somebody listens again.
    with closing(dial(node.pod(client).netns, target, port)):
        node.listeners[0 if client == "a1" else 2].accept()[0].close()


@FAMILIES
def test_what_is_sent_to_a_pod_goes_through_the_queue_of_its_interface(node: Node, family: int) -> None:
    with netns.entered(node.place.netns), IPRoute() as ip:
        (ifindex,) = ip.link_lookup(ifname=node.pod("a1").ifname)
        with limited(ifindex) as passed:
            node.capture("a1")
            with closing(dial(node.pod("a1").netns, NOWHERE[family], 80)) as client:
                accepted, _ = node.listeners[0].accept()
                with accepted:
                    before = passed()
                    assert says_the_same(client, accepted)
                    assert passed() > before


def test_a_source_that_is_not_the_pods_is_dropped_and_counted(node: Node) -> None:
    node.capture("a1")
    thief, victim, target = (node.pod(name).address(4) for name in ("a1", "a2", "b1"))
    before = node.redirection.stats()["from_pod", "SPOOFED"]
    for source in (victim, thief):
        datagram = struct.pack("!HHHH4s", 4000, 4001, 12, 0, b"hi!!")
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 32, 0, 0, 64, 17, 0, source.packed, target.packed)
        with (
            netns.entered(node.pod("a1").netns),
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        ):
            raw.sendto(header + datagram, (str(target), 0))
    assert node.redirection.stats()["from_pod", "SPOOFED"] == before + 1


@FAMILIES
def test_enrolment_resets_connections_that_are_open(node: Node, family: int) -> None:
    with closing(dial(node.pod("a1").netns, node.pod("b1").address(family), ECHO_PORT)) as connection:
        assert echoes(connection)
        node.capture("a1")
        with pytest.raises(ConnectionResetError):
            echoes(connection)


@FAMILIES
@pytest.mark.parametrize(("client", "server"), [("a1", "b1"), ("b1", "a1")], ids=["out", "in"])
def test_existing_connections_can_be_kept(node: Node, client: str, server: str, family: int) -> None:
    with closing(dial(node.pod(client).netns, node.pod(server).address(family), ECHO_PORT)) as connection:
        assert echoes(connection)
        # The one before may not have ended yet at its other end.
        assert re.fullmatch(
            r"keep [12] open connections? of pod-a1", node.capture("a1", keep_for_s=math.inf)[0]
        )
        assert echoes(connection)
        # New ones are captured all the same.
        with closing(dial(node.pod(client).netns, node.pod(server).address(family), ECHO_PORT)):
            node.listeners[0 if client == "a1" else 2].accept()[0].close()


@pytest.mark.parametrize(("client", "server"), [("a1", "b1"), ("b1", "a1")], ids=["out", "in"])
@pytest.mark.parametrize("keep_for_s", [0, 60])
def test_what_begins_while_a_pod_is_learnt_is_answered_at_once_and_counts_as_open_before(
    node: Node, client: str, server: str, keep_for_s: float
) -> None:
    def connect() -> socket.socket:
        return dial(node.pod(client).netns, node.pod(server).address(4), ECHO_PORT)

    def dropped() -> list[int]:
        stats = node.redirection.stats()
        return [stats["from_pod", "CLOSED"], stats["to_pod", "NO_LISTENER"]]

    dropped_before = dropped()
    with closing(connect()) as before, netns.entered(node.place.netns):
        learn(node, "a1")
        with closing(connect()) as meanwhile:
            assert echoes(before) and echoes(meanwhile)
            assert node.redirection.kept() == (), "nobody's yet, and noted all the same"
            node.capture("a1", keep_for_s=keep_for_s)
            for connection in (before, meanwhile):
                with nullcontext() if keep_for_s else pytest.raises(ConnectionResetError):
                    assert echoes(connection)
            now_ns = time.monotonic_ns()
            times_s = {(until_ns - now_ns) / 1e9 for _, until_ns in node.redirection._maps.passthrough()}
            assert all(50 < each <= 60 for each in times_s) and bool(times_s) is bool(keep_for_s)
    assert dropped() == dropped_before


def learn(node: Node, name: str) -> int:
    """Has a pod be learnt, as one that runs and is about to be captured; its interface."""
    (pod,) = node.desired(name).pods
    node.redirection.close_off({pod.ifindex: pod.ifname}, {pod.ifindex: ()}, {}, learnt={pod.ifindex})
    return pod.ifindex


def connects(node: Node, client: str, server: str) -> bool:
    try:
        dial(node.pod(client).netns, node.pod(server).address(4), ECHO_PORT, SILENCE_S).close()
    except TimeoutError:
        return False
    return True


def test_a_pod_that_is_learnt_and_that_nobody_captures_is_closed_in_the_kernel_when_its_time_is_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever learnt it may be dead: nothing is called from there on."""
    monkeypatch.setattr(reconcile, "LEARNT_S", 2)
    over = node.redirection.stats()["from_pod", "LEARN_OVER"]
    with netns.entered(node.place.netns):
        learn(node, "a1")
        assert connects(node, "a1", "b1") and connects(node, "b1", "a1")
        until(lambda: not connects(node, "a1", "b1"), "it is closed")
        assert not connects(node, "b1", "a1")
        assert node.redirection.stats()["from_pod", "LEARN_OVER"] > over
        node.capture("a1")
    with closing(dial(node.pod("a1").netns, NOWHERE[4], 80)):
        node.listeners[0].accept()[0].close()


def test_a_pod_whose_capture_fails_while_it_is_learnt_is_closed_at_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: Maps, address: object, entry: object) -> None:
        raise MapFull("pods", 16384)

    with netns.entered(node.place.netns):
        index = learn(node, "a1")
        assert connects(node, "a1", "b1")
        with monkeypatch.context() as broken:
            broken.setattr(Maps, "put_pod", no_room)
            with pytest.raises(MapFull) as failed:
                node.capture("a1")
        assert f"close interface {index} (): it was learnt, and is not captured" in failed.value.done
        assert not failed.value.is_open
        assert not connects(node, "a1", "b1") and not connects(node, "b1", "a1")
        node.capture("a1")


def test_a_pod_that_cannot_be_closed_is_said_to_be_open(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Attachments.attach

    def refused(self: Attachments, ifindex: int, program: str) -> None:
        if program == "from_pod":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, ifindex, program)

    with netns.entered(node.place.netns):
        with monkeypatch.context() as broken:
            broken.setattr(Attachments, "attach", refused)
            with pytest.raises(StepFailed, match="No space left") as learnt:
                learn(node, "a1")
            with pytest.raises(StepFailed, match="No space left") as failed:
                node.capture("a1")
        assert learnt.value.is_open and failed.value.is_open
        assert not connects(node, "b1", "a1"), "as far as it can be"
        node.capture("a1")


@pytest.mark.parametrize(("client", "server"), [("a1", "b1"), ("b1", "a1")], ids=["out", "in"])
def test_kept_connections_are_counted_and_end_at_both_ends_when_their_time_is_over(
    node: Node, client: str, server: str
) -> None:
    maps = node.redirection._maps
    with closing(dial(node.pod(client).netns, node.pod(server).address(4), ECHO_PORT)) as connection:
        assert echoes(connection)
        assert node.capture("a1", keep_for_s=60)[0].endswith("of pod-a1 for 60 s")
        with netns.entered(node.place.netns):
            (kept,) = node.redirection.kept()
            assert kept.count >= 1 and kept.ended == 0 and 0 < kept.until_ns - time.monotonic_ns() < 60e9
            assert echoes(connection)
            (over,) = existing.look(maps, kept.until_ns - existing.LEAD_NS)
            assert (over.count, over.ended) == (0, kept.count)
            # Whoever says nothing is told, too.
            with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
                connection.recv(1)
            until(lambda: not existing.look(maps, kept.until_ns), "nothing is left")
            port = connection.getsockname()[1]
            assert not [flow for flow, _ in maps.passthrough() if port in (flow.sport, flow.dport)]


@FAMILIES
@pytest.mark.parametrize("client", ["a1", "b1"], ids=["out", "in"])
def test_un_enrolment_resets_captured_connections_and_opens_the_pod(
    node: Node, client: str, family: int
) -> None:
    node.capture("a1")
    server = "b1" if client == "a1" else "a1"
    address = node.pod(server).address(family)
    with closing(dial(node.pod(client).netns, address, ECHO_PORT)) as connection:
        accepted, _ = node.listeners[0 if client == "a1" else 2].accept()
        with accepted:
            node.capture()
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    with closing(dial(node.pod(client).netns, address, ECHO_PORT)) as connection:
        assert echoes(connection)


def test_a_connection_past_the_proxy_that_is_captured_again_ends_at_both_ends(node: Node) -> None:
    """Also one that began in that very moment: the pod answers when it is captured and nobody has ended it yet."""
    maps, address = node.redirection._maps, node.pod("a1").address(4)
    with netns.entered(node.place.netns):
        (pod,) = node.desired("a1").pods
        past = replace(pod, flags=pod.flags | Flag.BYPASS)
        node.redirection.apply(replace(node.desired("a1"), pods=(past,)))
    with netns.entered(node.pod("a1").netns):
        server = socket.create_server((str(address), 0))
    with server, closing(dial(node.pod("b1").netns, address, server.getsockname()[1])) as client:
        accepted, _ = server.accept()
        with accepted:
            before = node.redirection.stats()["from_pod", "BYPASS_OVER"]
            maps.put_iface(pod.ifindex, iface_entry(pod))
            accepted.sendall(b"late")
            assert node.redirection.stats()["from_pod", "BYPASS_OVER"] > before
            with netns.entered(node.place.netns):
                assert past_proxy.end(maps, pod.ifindex, pod.addresses) == 1
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            with pytest.raises(ConnectionAbortedError):
                accepted.recv(1)


def test_the_next_agent_finds_everything_and_compiles_nothing(node: Node) -> None:
    node.capture("a1")
    with closing(dial(node.pod("a1").netns, NOWHERE[4], 80)) as client:
        accepted, _ = node.listeners[0].accept()
        with accepted, netns.entered(node.place.netns), closing(node.successor()) as successor:
            assert not successor.prepare().compiled
            assert [place.addresses for place in successor.captured()] == [node.pod("a1").addresses]
            assert successor.slots() == (True, True, True)
            assert successor.apply(node.desired("a1")) == []
            assert successor.prove(node.desired("a1")) == ()
            assert says_the_same(client, accepted)


def test_two_nodes_have_an_instance_each_and_not_the_same(
    node: Node, lab: Topology, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = lab.nodes["node-b"].netns
    same = Redirection(node.redirection.instance, tmp_path_factory.mktemp("x"))
    with netns.entered(other), pytest.raises(InstanceInUse):
        same.prepare()
    with redirected(lab, "node-b", tmp_path_factory.mktemp("b"), instance=instance_name("b")) as second:
        node.capture("a1")
        second.capture("b1")
        with closing(dial(node.pod("b1").netns, node.pod("a1").address(4), ECHO_PORT)):
            accepted, _ = second.listeners[0].accept()
            accepted.close()
        node.listeners[2].settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            node.listeners[2].accept()


def test_what_is_changed_alone_is_as_if_everything_had_been_applied(node: Node) -> None:
    """Pods come, one after the other, and go, and each time nothing of the others is touched, be it broken."""
    place = node.place.netns
    names = ("a1", "a2")
    with netns.entered(place):
        both = node.desired(*names)
        first, second = both.pods
        node.redirection.apply(both)
        whole = state(node)
        node.redirection.apply(replace(both, pods=()))
        empty = state(node)
        assert whole != empty
        for pods, changed in (((first,), first), (both.pods, second)):
            done = node.redirection.apply(replace(both, pods=pods), only={changed.ifindex})
            assert done and all(
                f"interface {changed.ifindex}" in line for line in done if "capture" not in line
            )
        assert state(node) == whole and node.redirection.prove(both) == ()
        assert node.redirection.apply(both, only={first.ifindex, second.ifindex}) == []
        with Maps(node.redirection.pins.generation) as maps:
            maps.delete_pod(second.addresses[0])
            assert node.redirection.apply(replace(both, pods=(second,)), only={first.ifindex})
            assert maps.pod(second.addresses[0]) is None and maps.iface(first.ifindex) is None
            node.redirection.apply(replace(both, pods=(second,)))
            assert maps.pod(second.addresses[0]) is not None
        node.redirection.apply(replace(both, pods=()), only={second.ifindex})
        assert state(node) == empty
        # One whose interface is gone is let go.
        gone = replace(first, ifindex=99999, ifname="hlgone")
        done = node.redirection.apply(replace(both, pods=(gone,)), only={99999})
        assert done == ["hlgone (interface 99999) is gone: not captured"]


def state(node: Node) -> object:
    with Maps(node.redirection.pins.generation) as maps:
        links = sorted(path.name for path in node.redirection.pins.links.iterdir())
        return maps.pods(), maps.ifaces(), maps.owners(), maps.host_addresses(), maps.conf(), links
