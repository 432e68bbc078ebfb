"""The kernel side beside others: drift is seen, foreign filters are left alone, nothing of ours stays behind."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from agent.cli.output import CliError
from agent.cli.pinned import open_pinned
from agent.lab.topology import Topology
from redirect import host_addresses, netns, sys_bpf
from redirect.desired import Desired
from redirect.errors import MapFull, NoPins, PodNotFound, StepFailed
from redirect.layout import MAPS
from redirect.locate import locate
from redirect.reconcile import Redirection
from tests.support.redirect_lab import (
    ECHO_PORT,
    Node,
    dial,
    echoing_lab,
    instance_name,
    redirected,
)

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with echoing_lab("hgc", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture
def node(lab: Topology, tmp_path: Path) -> Iterator[Node]:
    with redirected(lab, "node-a", tmp_path, instance=instance_name("c")) as made:
        yield made


def ifindex(node: Node, name: str) -> int:
    with netns.entered(node.place.netns):
        return socket.if_nametoindex(node.pod(name).ifname)


def inventory(node: Path) -> dict[str, object]:
    """Everything in a node that ztun could leave behind."""
    with netns.entered(node), IPRoute() as ip, open("/proc/thread-self/ns/net") as own:
        links = {link["index"]: link.get("ifname") for link in ip.get_links()}
        qdiscs = sorted((q["index"], q.get("kind"), q["parent"]) for q in ip.get_qdiscs())
        filters = [
            (index, parent, entry["handle"])
            for index in links
            for parent in (0xFFFFFFF2, 0xFFFFFFF3)
            for entry in ip.get_filters(index=index, parent=parent)
        ]
        programs = {
            (index, kind): sys_bpf.prog_query(index, kind)
            for index in links
            for kind in (sys_bpf.BPF_TCX_INGRESS, sys_bpf.BPF_TCX_EGRESS)
        }
        programs[own.fileno(), 0] = sys_bpf.prog_query(own.fileno(), sys_bpf.BPF_SK_LOOKUP)
        return {"links": links, "qdiscs": qdiscs, "filters": filters, "programs": programs}


def add_foreign_filter(index: int, prog_fd: int) -> None:
    with IPRoute() as ip:
        ip.tc("add", "clsact", index=index)
        ip.tc(
            "add-filter", "bpf", index=index, handle=7, fd=prog_fd, name="foreign",
            parent=0xFFFFFFF2, classid=1, direct_action=True, prio=1,
        )  # fmt: skip


@pytest.mark.parametrize("has_tcx", [True, False], ids=["tcx", "clsact"])
def test_uninstalling_leaves_the_node_as_it_was(lab: Topology, tmp_path: Path, has_tcx: bool) -> None:
    place = lab.nodes["node-a"].netns
    before, instance = inventory(place), instance_name("u")
    with redirected(lab, "node-a", tmp_path, instance=instance, has_tcx=has_tcx) as node:
        node.capture("a1", "a2")
        assert inventory(place) != before
        pins = node.redirection.pins.root
    assert inventory(place) == before
    assert list(tmp_path.iterdir()) == []
    assert not [path.name for path in netns.RUN_DIR.iterdir() if path.name.startswith(instance)]
    assert not pins.exists()
    with closing(Redirection(instance, tmp_path)) as again, netns.entered(place):
        assert again.uninstall() == []
        with pytest.raises(NoPins):
            again.apply(Desired((), frozenset()))


@pytest.mark.parametrize("has_tcx", [True, False], ids=["tcx", "clsact"])
def test_a_foreign_filter_is_passed_first_and_stays(lab: Topology, tmp_path: Path, has_tcx: bool) -> None:
    with redirected(lab, "node-a", tmp_path, instance=instance_name("f"), has_tcx=has_tcx) as node:
        index = ifindex(node, "a1")
        prog_fd = node.redirection.pins.open_program("from_pod_side")  # drops whatever is not for a pod
        try:
            with netns.entered(node.place.netns):
                add_foreign_filter(index, prog_fd)
            foreign = inventory(node.place.netns)
            node.capture("a1")
            with closing(dial(node.pod("a1").netns, "203.0.113.7", 80)):
                node.listeners[0].accept()[0].close()
            node.capture()
            assert inventory(node.place.netns) == foreign
        finally:
            os.close(prog_fd)
            with netns.entered(node.place.netns), IPRoute() as ip:
                ip.tc("del", "clsact", index=index)


def test_a_foreign_tcx_program_that_was_there_first_runs_after_ours(node: Node) -> None:
    index = ifindex(node, "a1")
    prog_fd = node.redirection.pins.open_program("from_pod_side")  # drops whatever is not for a pod
    with netns.entered(node.place.netns):
        link_fd = sys_bpf.link_create(prog_fd, index, sys_bpf.BPF_TCX_INGRESS)
        foreign = sys_bpf.prog_query(index, sys_bpf.BPF_TCX_INGRESS)
        try:
            node.capture("a1")
            with closing(dial(node.pod("a1").netns, "203.0.113.7", 80)):
                node.listeners[0].accept()[0].close()
            assert sys_bpf.prog_query(index, sys_bpf.BPF_TCX_INGRESS)[1:] == foreign
            node.capture()
            assert sys_bpf.prog_query(index, sys_bpf.BPF_TCX_INGRESS) == foreign
        finally:
            os.close(link_fd)
            os.close(prog_fd)


def test_uninstalling_resets_what_was_captured_and_opens_the_pods(node: Node) -> None:
    node.capture("a1")
    server = node.lab.pods["lab/b1"].address(4)
    client = dial(node.pod("a1").netns, server, ECHO_PORT)
    accepted, _ = node.listeners[0].accept()
    with client, accepted, netns.entered(node.place.netns):
        node.redirection.uninstall()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with closing(dial(node.pod("a1").netns, server, ECHO_PORT)) as client:
        client.sendall(b"hello")
        assert client.recv(64) == b"hello"


def test_an_ingress_qdisc_is_refused_without_tcx_and_no_obstacle_with_it(node: Node, lab: Topology) -> None:
    index = ifindex(node, "a1")
    with netns.entered(node.place.netns), IPRoute() as ip:
        ip.tc("add", "ingress", index=index)
        try:
            node.redirection._attachments._has_tcx = False
            with pytest.raises(StepFailed, match=r"attach from_pod to interface \d+: .*`ingress`"):
                node.capture("a1")
            node.redirection._attachments._has_tcx = True
            node.capture("a1")
            with closing(dial(node.pod("a1").netns, "203.0.113.7", 80)):
                node.listeners[0].accept()[0].close()
            assert [q.get("kind") for q in ip.get_qdiscs(index) if q["parent"] == 0xFFFFFFF1] == ["ingress"]
        finally:
            ip.tc("del", "ingress", index=index)


def test_a_pod_whose_interface_is_gone_is_forgotten_with_its_pins(node: Node, lab: Topology) -> None:
    with netns.entered(node.place.netns), IPRoute() as ip:
        ip.link("add", ifname="hgtemp", kind="veth", peer={"ifname": "hgtemp2"})
        (index,) = ip.link_lookup(ifname="hgtemp")
        desired = node.desired("a1")
        pod = desired.pods[0]
        extra = replace(pod, ifindex=index, ifname="hgtemp", addresses=(ip_address("10.9.9.9"),))
        node.redirection.apply(Desired((pod, extra), desired.host_addresses))
        ip.link("del", index=index)
        assert [place.ifname for place in node.redirection.captured()] == [node.pod("a1").ifname, ""]
        # Another interface under the same number is not taken for the one that was captured.
        ip.link("add", ifname="hgtemp", index=index, kind="veth", peer={"ifname": "hgtemp2"})
        for end in ("hgtemp", "hgtemp2"):
            ip.link("set", index=ip.link_lookup(ifname=end)[0], state="up")
        desired = Desired((pod, extra), host_addresses.local())
        assert node.redirection.apply(desired) == [
            f"attach {program} to interface {index}" for program in ("from_pod", "to_pod")
        ]
        assert node.redirection.prove(desired) == ()
        ip.link("del", index=index)
        done = node.redirection.apply(Desired((pod,), host_addresses.local()))
    assert f"release 10.9.9.9 from interface {index}" in done
    assert not [step for step in done if "drain" in step]
    assert not list(node.redirection.pins.links.glob(f"{index}-*"))
    assert node.prove("a1") == ()


def test_a_full_map_is_named_with_its_size(node: Node) -> None:
    crowd = frozenset(ip_address("10.0.0.0") + number for number in range(MAPS["hostips"].max_entries + 1))
    with (
        netns.entered(node.place.netns),
        pytest.raises(MapFull, match=r"map hostips is full: it holds 4096 entries"),
    ):
        node.redirection.apply(Desired((), crowd))


def test_the_maps_are_read_as_named_fields(node: Node) -> None:
    node.capture("a1")
    with closing(dial(node.pod("a1").netns, "203.0.113.7", 80)):
        node.listeners[0].accept()[0].close()
    with open_pinned(node.redirection.instance, node.redirection.pins.run_dir) as maps:
        rows = {name: [{**key, **value} for key, value in each.entries()] for name, each in maps.items()}
    index = ifindex(node, "a1")
    assert [(row["address"], row["ifindex"]) for row in rows["pods"]] == [
        (address, index) for address in node.pod("a1").addresses
    ]
    (iface,) = rows["ifaces"]
    assert (iface["ifindex"], iface["addresses"]) == (index, list(node.pod("a1").addresses))
    assert [row["listener"] for row in rows["socks"] if row["filled"]] == ["outbound", "hbone", "plaintext"]
    counts = {(row["program"], row["reason"]): row["packets"] for row in rows["stats"]}
    assert counts["from_pod", "SYN_TO_PROXY"] >= 1
    assert {row["address"] for row in rows["hostips"]} >= set(node.place.addresses)


def test_maps_that_cannot_be_read_say_why(node: Node, tmp_path: Path) -> None:
    with (
        pytest.raises(CliError, match="hgnobody has no pinned maps"),
        open_pinned("hgnobody", tmp_path / "x"),
    ):
        pass
    node.redirection.pins.generation.rename(node.redirection.pins.root / "0123456789ab")
    with (
        pytest.raises(CliError, match="layout 0123456789ab"),
        open_pinned(node.redirection.instance, node.redirection.pins.run_dir),
    ):
        pass


def test_an_address_that_moves_takes_its_connections_down_first(node: Node) -> None:
    """The former pod's sockets in the proxy must not send into the new pod."""
    node.capture("a1")
    with closing(dial(node.pod("a1").netns, "203.0.113.7", 80)):
        accepted, _ = node.listeners[0].accept()
        with accepted, netns.entered(node.place.netns):
            desired = node.desired("a1", "a2")
            first, second = desired.pods
            moved = replace(second, addresses=first.addresses)
            done = node.redirection.apply(Desired((moved,), desired.host_addresses))
            accepted.settimeout(5)
            with pytest.raises(ConnectionAbortedError):
                accepted.recv(1)
    destroyed = next(number for number, step in enumerate(done) if "destroy" in step)
    assert done.index(f"attach from_pod to interface {second.ifindex}") < destroyed
    assert destroyed < done.index(f"capture {first.address(4)} at interface {second.ifindex}")


def test_news_of_addresses_arrive(lab: Topology) -> None:
    with netns.entered(lab.nodes["node-b"].netns), closing(host_addresses.Watch()) as watch, IPRoute() as ip:
        assert not watch.read()
        (index,) = ip.link_lookup(ifname="lo")
        ip.addr("add", index=index, address="10.250.0.1", prefixlen=32)
        assert watch.read().news == {host_addresses.News.ADDRESSES}
        assert ip_address("10.250.0.1") in host_addresses.local()
        ip.addr("del", index=index, address="10.250.0.1", prefixlen=32)


def test_a_pod_is_found_by_namespace_process_and_interface(node: Node) -> None:
    pod = node.pod("a1")
    with netns.entered(pod.netns):
        process = subprocess.Popen(["sleep", "60"])
    try:
        with netns.entered(node.place.netns):
            by_netns = locate(netns=pod.netns)
            assert (by_netns.ifname, by_netns.addresses, by_netns.refusal) == (pod.ifname, pod.addresses, "")
            assert locate(pid=process.pid) == by_netns
            assert locate(ifname=pod.ifname) == by_netns
    finally:
        process.kill()
        process.wait()


def test_a_pod_on_a_bridge_is_answered_by_the_bridge(node: Node) -> None:
    with netns.entered(node.place.netns), IPRoute() as ip:
        ip.link("add", ifname="hgbridge", kind="bridge")
        (bridge,) = ip.link_lookup(ifname="hgbridge")
        ip.link("set", index=ifindex(node, "a1"), master=bridge)
        try:
            place = locate(netns=node.pod("a1").netns)
            (link,) = ip.get_links(bridge)
            assert place.refusal == ""
            assert {hop.mac.hex(":") for hop in place.hops} == {link.get("address")}
        finally:
            ip.link("del", index=bridge)


def test_places_that_cannot_be_captured_say_why(node: Node, lab: Topology, tmp_path: Path) -> None:
    with netns.entered(node.place.netns):
        assert "hostNetwork" in locate(netns=node.place.netns).refusal
        assert "not in this node's" in locate(netns=lab.pods["lab/b1"].netns).refusal
        assert "not a veth" in locate(ifname="lo").refusal
        with pytest.raises(PodNotFound, match="no interface hgnone"):
            locate(ifname="hgnone")
        with pytest.raises(PodNotFound, match=r"missing \(no such file\)"):
            locate(netns=tmp_path / "missing")
        with pytest.raises(PodNotFound, match=r"no process 999999999 \(no such process\)"):
            locate(pid=999999999)
        for no_namespace in ("/etc/passwd", "/etc", "/proc/self/ns/mnt"):
            with pytest.raises(PodNotFound, match=f"{no_namespace} is not a network namespace"):
                locate(netns=no_namespace)
        with pytest.raises(ValueError, match="exactly one"):
            locate(pid=1, ifname="lo")


def test_a_pod_behind_another_kind_of_interface_is_refused(node: Node) -> None:
    """Other kinds than this one are rows of the unit test: not every kernel has them."""
    kind = "macvlan"
    name = f"hg{os.getpid()}{kind}"
    path = netns.ensure(name)
    try:
        with netns.entered(node.place.netns), IPRoute() as ip, path.open("rb") as namespace:
            (parent,) = ip.link_lookup(ifname="uplink")
            ip.link("add", ifname="hgchild", kind=kind, link=parent, net_ns_fd=namespace.fileno())
        with netns.entered(path), IPRoute() as ip:
            (index,) = ip.link_lookup(ifname="hgchild")
            ip.addr("add", index=index, address="10.77.0.9", prefixlen=24)
        with netns.entered(node.place.netns):
            assert f"of kind {kind}" in locate(netns=path).refusal
    finally:
        netns.remove(name)
