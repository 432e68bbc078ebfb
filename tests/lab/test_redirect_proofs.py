"""Whatever of the kernel side somebody takes away is found, named, and made again with what was open still open."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from agent.lab.blueprint import generate, parse
from agent.lab.topology import Topology
from redirect import audit, host_senders, netns, sys_bpf
from redirect.audit import Report
from redirect.errors import NoPins
from redirect.findings import Part
from redirect.maps import Maps
from redirect.prefilter import PrefilterMaps, Source
from redirect.private_watch import PrivateWatch
from redirect.sides import PROXY_ADDRESSES
from tests.support import path_mtu
from tests.support.labtraffic import until
from tests.support.redirect_lab import Node, dial, instance_name, redirected

pytestmark = pytest.mark.kernel

PORT = 8080
PROBES = (sys.executable, "-m", "agent.lab.probes")
CLSACT = {"from_pod": 0xFFFFFFF2, "to_pod": 0xFFFFFFF3, "from_net_side": 0xFFFFFFF2}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    topology = Topology(f"hlq{os.getpid()}", tmp_path_factory.mktemp("run"))
    try:
        topology.up(parse(generate(2)))
        for pod in topology.pods.values():
            topology.processes.start_ready(pod.name, pod.netns, [*PROBES, "echo", "--port", str(PORT)])
        yield topology
    finally:
        topology.down()


@pytest.fixture(scope="module", params=[True, False], ids=["tcx", "clsact"])
def node(
    lab: Topology, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Node]:
    """With one pod captured; each test leaves it whole."""
    run_dir = tmp_path_factory.mktemp("node")
    with redirected(lab, "node-a", run_dir, instance=instance_name("q"), has_tcx=request.param) as made:
        made.capture("a1")
        yield made


def ifindex(node: Node, name: str = "a1") -> int:
    with netns.entered(node.place.netns):
        return socket.if_nametoindex(node.pod(name).ifname)


def inner(node: Node, side: int) -> tuple[Path, str]:
    """Namespace of a side, and its device."""
    made = node.redirection._foundation.sides[side]
    return made.netns, made.ifname


def detach(node: Node, link: str) -> None:
    fd = sys_bpf.obj_get(node.redirection.pins.links / link)
    sys_bpf.link_detach(fd)
    os.close(fd)


def take_off(node: Node, index: int, *programs: str) -> None:
    """`bpftool link detach`, or `tc filter del`."""
    for program in programs:
        if node.has_tcx:
            detach(node, f"{index}-{program}")
        else:
            with netns.entered(node.place.netns), IPRoute() as ip:
                ip.tc("del-filter", index=index, parent=CLSACT[program])


def set_inside(node: Node, side: int, change: Callable[[IPRoute, int], object]) -> None:
    path, ifname = inner(node, side)
    with netns.entered(path), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=ifname)
        change(ip, index)


def rename(ip: IPRoute, index: int) -> None:
    ip.link("set", index=index, state="down")
    ip.link("set", index=index, ifname="elsewhere", state="up")


def add_rules(ip: IPRoute, _: int) -> None:
    for preference in (1, 10):
        for family in (socket.AF_INET, socket.AF_INET6):
            # ip [-6] rule add pref N blackhole
            ip.rule("add", family=family, priority=preference, action="blackhole")


def flush_every_route(ip: IPRoute) -> None:
    for table in (254, 255, 100):
        for family in (socket.AF_INET, socket.AF_INET6):
            ip.flush_routes(family=family, table=table)  # ip [-6] route flush table N


def add_routes(ip: IPRoute) -> None:
    # ip route add blackhole DST
    ip.route("add", dst="10.0.0.0/8", type="blackhole")
    ip.route("add", dst="fd00::/8", type="blackhole", family=V6)


def rename_here(node: Node, side: int) -> None:
    with netns.entered(node.place.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=inner(node, side)[1])
        rename(ip, index)


def delete_device(node: Node, side: int) -> None:
    with netns.entered(node.place.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=inner(node, side)[1])
        ip.link("del", index=index)


def set_device(node: Node, side: int, **settings: object) -> None:
    with netns.entered(node.place.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=inner(node, side)[1])
        ip.link("set", index=index, **settings)


def write_sysctl(node: Node, name: str, value: str) -> None:
    with netns.entered(inner(node, 0)[0]):
        Path("/proc/sys", name).write_text(value)


def change_conf(node: Node) -> None:
    maps = node.redirection._maps
    maps.put_conf(replace(maps.conf(), net_side_mac=b"\x02" * 6))


def let_nobody_past(node: Node) -> None:
    with Maps(node.redirection.pins.generation) as maps:
        maps.put_conf(replace(maps.conf(), host_cgroup=host_senders.NOBODY, stranger_burst=7))


V6 = socket.AF_INET6
FAULTS: dict[str, tuple[Callable[[Node], object], Part, str]] = {
    "a pod's program": (
        lambda node: take_off(node, ifindex(node), "from_pod"),
        Part.PROGRAM,
        r"from_pod is not attached to pod-a1",
    ),
    "a pod's interface entry": (
        lambda node: node.redirection._maps.delete_iface(ifindex(node)),
        Part.ENTRY,
        r"close interface \d+",
    ),
    "a pod's address": (
        lambda node: node.redirection._maps.delete_pod(node.pod("a1").address(6)),
        Part.ENTRY,
        r"capture fd00:\S+ at interface",
    ),
    "the program of a device": (
        lambda node: take_off(node, node.redirection._maps.conf().net_side_ifindex, "from_net_side"),
        Part.INNER_DEVICE,
        r"from_net_side is not attached to interface \d+",
    ),
    "a device": (lambda node: delete_device(node, 0), Part.INNER_DEVICE, r"device \S+-mo is missing"),
    "the other device": (lambda node: delete_device(node, 1), Part.INNER_DEVICE, r"device \S+-mi is missing"),
    "a device, down": (
        lambda node: set_device(node, 1, state="down"),
        Part.INNER_DEVICE,
        r"device \S+-mi is down",
    ),
    "a device's name inside": (
        lambda node: set_inside(node, 1, rename),
        Part.INNER_DEVICE,
        r"device \S+-mi has another name in \S+-net",
    ),
    "a device's MTU": (
        lambda node: set_device(node, 0, mtu=1300),
        Part.INNER_DEVICE,
        r"device \S+-mo has MTU 1300, and \d+ at its other end",
    ),
    "a device, with ARP": (
        lambda node: set_inside(node, 1, lambda ip, index: ip.link("set", index=index, arp=True)),
        Part.INNER_DEVICE,
        r"device \S+-mi has ARP",
    ),
    "whom of the node is let past": (
        let_nobody_past,
        Part.ENTRY,
        r"map conf has stranger_burst 7 in place of 0, host_cgroup 18446744073709551615 in place of 0",
    ),
    "conf": (change_conf, Part.INNER_DEVICE, r"map conf does not match"),
    "a default route": (
        lambda node: set_inside(
            node, 0, lambda ip, index: ip.route("del", family=V6, dst="default", oif=index)
        ),
        Part.NAMESPACE,
        r"-pod: the IPv6 default route is missing",
    ),
    "local routes": (
        lambda node: set_inside(node, 1, lambda ip, _: ip.flush_routes(table=100, family=socket.AF_INET)),
        Part.NAMESPACE,
        r"-net: the IPv4 local default route in table 100 is missing",
    ),
    "every route, the kernel's too": (
        lambda node: set_inside(node, 0, lambda ip, _: flush_every_route(ip)),
        Part.NAMESPACE,
        r"-pod: the local route to 169.254.77.1 is missing",
    ),
    "routes of others": (
        lambda node: set_inside(node, 0, lambda ip, _: add_routes(ip)),
        Part.NAMESPACE,
        r"-pod: somebody else has a route to 10.0.0.0/8",
    ),
    "a device's name": (
        lambda node: rename_here(node, 0),
        Part.INNER_DEVICE,
        r"device \S+-mo is missing",
    ),
    "a rule": (
        lambda node: set_inside(node, 1, lambda ip, _: ip.flush_rules(family=V6, table=100)),
        Part.NAMESPACE,
        r"-net: the IPv6 rule for table 100 is missing",
    ),
    "all rules": (
        lambda node: set_inside(node, 0, lambda ip, _: ip.flush_rules(family=V6)),
        Part.NAMESPACE,
        r"-pod: the IPv6 rule for table 254 is missing",
    ),
    "rules of others": (
        lambda node: set_inside(node, 0, add_rules),
        Part.NAMESPACE,
        r"-pod: somebody else has an IPv4 rule of preference 10",
    ),
    "the proxy's address": (
        lambda node: set_inside(
            node, 0, lambda ip, _: ip.addr("del", index=1, address="169.254.77.1", prefixlen=32)
        ),
        Part.NAMESPACE,
        r"-pod: address 169.254.77.1 is missing",
    ),
    "a setting": (
        lambda node: write_sysctl(node, "net/ipv4/tcp_tw_reuse", "0"),
        Part.NAMESPACE,
        r"-pod: sysctl net.ipv4.tcp_tw_reuse is 0 instead of 1",
    ),
    "a name": (
        lambda node: netns.remove(inner(node, 0)[0].name),
        Part.NAMESPACE,
        r"the name /run/netns/\S+-pod is gone or leads elsewhere",
    ),
    "a lookup": (
        lambda node: detach(node, "lookup_net_side"),
        Part.LOOKUP,
        r"lookup_net_side is not attached",
    ),
    "pins": (
        lambda node: shutil.rmtree(node.redirection.pins.generation),
        Part.PIN,
        r"prog_from_pod is no longer pinned in ",
    ),
}


WITHOUT_AGENT = {
    # What the maps have is all that is known to be desired.
    "a pod's interface entry": r"from_pod is left over on pod-a1",
    # No process holds it by anything but its name.
    "a name": r"namespace \S+-pod is missing",
}


KNOWN_TO_THE_AGENT_ALONE = ("whom of the node is let past",)


def audited(node: Node) -> Report:
    """What another process says that knows nothing but the kernel."""
    with netns.entered(node.place.netns), closing(node.successor()) as other:
        return audit.by_maps(other)


def reasons(report: Report) -> list[str]:
    drift: Any = report["drift"]
    return [row["reason"] for row in drift]


def says_the_same(client: socket.socket, accepted: socket.socket) -> bool:
    client.sendall(b"still there")
    accepted.settimeout(5)
    return accepted.recv(64) == b"still there"


def is_served(node: Node) -> bool:
    """New connections out of the pod and into it meet the listeners."""
    outside = node.lab.pods["lab/b1"]
    with closing(dial(node.pod("a1").netns, outside.address(4), PORT)):
        node.listeners[0].accept()[0].close()
    with closing(dial(outside.netns, node.pod("a1").address(6), PORT)):
        node.listeners[2].accept()[0].close()
    return True


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_mended_beneath_live_connections(node: Node, fault: str) -> None:
    break_it, part, reason = FAULTS[fault]
    assert node.prove("a1") == ()
    with closing(dial(node.pod("a1").netns, node.lab.pods["lab/b1"].address(4), PORT)) as client:
        accepted, _ = node.listeners[0].accept()
        with accepted:
            break_it(node)
            found = node.prove("a1")
            assert {(each.part, each.is_mendable) for each in found} == {(part, True)}
            assert any(re.search(reason, each.reason) for each in found), found
            assert all(each.remedy for each in found)
            if fault == "pins":
                with pytest.raises(NoPins):
                    audited(node)
            elif fault in KNOWN_TO_THE_AGENT_ALONE:
                assert reasons(audited(node)) == []
            else:
                wanted = WITHOUT_AGENT.get(fault, reason)
                assert any(re.search(wanted, each) for each in reasons(audited(node))), reasons(audited(node))
            assert node.capture("a1")
            assert node.prove("a1") == ()
            assert node.capture("a1") == []
            assert reasons(audited(node)) == []
            assert says_the_same(client, accepted)
    assert is_served(node)


@pytest.mark.parametrize(("own", "far"), [*zip(PROXY_ADDRESSES, ("10.9.9.9", "fd09::9"), strict=True)])
def test_what_was_learnt_of_a_path_is_no_fault_and_outlives_what_is_mended(
    node: Node, own: str, far: str
) -> None:
    """A stack that forgets it sends what is too large once more, to every peer behind a small link."""
    path, ifname = inner(node, 1)
    path_mtu.told(
        path, own, far, (node.place.netns, ifname), node.redirection._maps.conf().net_side_mac, 1300
    )
    assert until(lambda: path_mtu.learnt(path, far), "a path MTU") == 1300
    assert node.prove("a1") == ()
    with netns.entered(path):
        Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("0")
    assert node.capture("a1")
    assert node.prove("a1") == ()
    assert path_mtu.learnt(path, far) == 1300


@pytest.mark.parametrize("side", [0, 1], ids=["pod-side", "net-side"])
@pytest.mark.parametrize("end", ["here", "inside"])
def test_a_device_that_somebody_moves_to_another_namespace_is_made_again(
    node: Node, end: str, side: int
) -> None:
    path, ifname = inner(node, side)
    where = node.place.netns if end == "here" else path
    name = f"{node.redirection.instance}-else"
    try:
        with netns.ensure(name).open("rb") as other, netns.entered(where), IPRoute() as ip:
            # ip link set DEV netns ELSEWHERE
            ip.link("set", index=ip.link_lookup(ifname=ifname)[0], net_ns_fd=other.fileno())
        (found,) = node.prove("a1")
        assert f"{ifname} is missing or does not lead into" in found.reason and found.is_mendable
        node.capture("a1")
        assert node.prove("a1") == ()
        assert is_served(node)
    finally:
        netns.remove(name)


def test_how_many_packets_passed_meanwhile_is_told(node: Node) -> None:
    index, pod = ifindex(node), node.pod("a1")
    target = node.lab.pods["lab/b1"].address(4)
    assert node.prove("a1") == ()
    take_off(node, index, "from_pod", "to_pod")
    with closing(dial(pod.netns, target, PORT)) as leak:
        leak.sendall(b"in clear")
        assert leak.recv(64) == b"in clear"
    (line,) = [line for line in node.capture("a1") if "passed" in line]
    told = re.fullmatch(
        rf"{pod.ifname} \(interface {index}\) was not guarded, for at most [\d.]+ s: "
        r"no more than (\d+) packets? of its pod and (\d+) to it passed",
        line,
    )
    assert told and int(told[1]) >= 3 and int(told[2]) >= 2, line


CHANGES: dict[str, Callable[[IPRoute, int], object]] = {
    "a route": lambda ip, _: ip.flush_routes(table=100, family=V6),
    "a rule": lambda ip, _: ip.flush_rules(family=V6, table=100),
    "a rule of IPv4": lambda ip, _: ip.flush_rules(family=socket.AF_INET, table=100),
    "an address": lambda ip, _: ip.addr("del", index=1, address="169.254.77.1", prefixlen=32),
    "a device": lambda ip, index: ip.link("set", index=index, mtu=1300),
}


def test_each_change_in_a_private_namespace_is_told(node: Node) -> None:
    with closing(PrivateWatch()) as watch:
        watch.watch(node.redirection.private_namespaces)

        def is_told() -> bool:
            ready, _, _ = select.select([watch], [], [], 0)
            return bool(ready)

        for side in (0, 1):
            for what, change in CHANGES.items():
                assert not is_told()
                set_inside(node, side, change)
                until(is_told, f"{what} is told of")
                node.capture("a1")
                assert node.prove("a1") == ()
                watch.read()


def test_what_runs_at_the_hooks_is_told_in_its_order(node: Node) -> None:
    (ingress, egress) = [hook for hook in hooks_of(node) if hook["interface"] == node.pod("a1").ifname]
    for hook, program in ((ingress, "from_pod"), (egress, "to_pod")):
        (ours,) = hook["programs"]
        assert ours["is_ours"] and ours["name"] == program and len(ours["tag"]) == 16
        assert ours["by"] == ("tcx" if node.has_tcx else "clsact")
    prog_fd = sys_bpf.load_verdict("behind", sys_bpf.TC_ACT_SHOT)
    try:
        with netns.entered(node.place.netns):
            link_fd = sys_bpf.link_create(prog_fd, ifindex(node), sys_bpf.BPF_TCX_EGRESS)
        try:
            (_, egress) = [hook for hook in hooks_of(node) if hook["interface"] == node.pod("a1").ifname]
            names = [(each["name"], each["is_ours"]) for each in egress["programs"]]
            behind, ours = ("behind", False), ("to_pod", True)
            # Every program of tcx runs before the first filter.
            assert names == ([ours, behind] if node.has_tcx else [behind, ours])
        finally:
            os.close(link_fd)
    finally:
        os.close(prog_fd)


def hooks_of(node: Node) -> list[dict[str, Any]]:
    found: Any = audited(node)["hooks"]
    return list(found)


def test_what_no_agent_can_have_left_so_is_found_without_one(node: Node) -> None:
    pod, index = node.pod("a1").address(4), ifindex(node)
    pins, sources = node.redirection.pins, [Source(80, ip_network("10.0.0.0/8"), is_denied=True)]
    with closing(PrefilterMaps(pins.generation)) as written:
        number = written.put_set(sources)
        try:
            written.link(pod, index, number)
            assert reasons(audited(node)) == []
            written.link(pod, index + 1000, number)
            assert reasons(audited(node)) == [
                f"prefiltered: {pod} is at interface {index + 1000}, which is not captured"
            ]
            written.link(pod, index, number + 1)
            assert reasons(audited(node)) == [
                f"prefiltered: {pod} has set {number + 1}, which has no entries in denials"
            ]
        finally:
            written.unlink(pod)
            written.drop_set(number, sources)
    assert reasons(audited(node)) == []


def test_a_program_that_was_not_built_here_is_told_by_its_tag_and_not_attached(
    node: Node,
) -> None:
    pins = node.redirection.pins
    path, aside = pins.generation / "prog_to_pod", pins.generation / "aside"
    other = sys_bpf.load_verdict("to_pod", -1)
    try:
        path.rename(aside)
        sys_bpf.obj_pin(other, path)
        wanted = r"to_pod: what is pinned has tag \w{16}, and what was built here \w{16}"
        assert any(re.fullmatch(wanted, each) for each in reasons(audited(node)))
        # The same where an agent runs, which goes by the numbers of what it holds.
        with netns.entered(node.place.netns):
            told = audit.by_agent(node.redirection, (), {})
        assert any(re.fullmatch(wanted, each) for each in reasons(told))
        # Whoever holds the right one pins it again; who begins anew builds it again (`Redirection.prepare`).
        assert any("prog_to_pod" in line for line in node.capture("a1"))
        assert reasons(audited(node)) == []
    finally:
        os.close(other)
        aside.unlink()


def test_a_slot_without_a_listener_is_found_and_left_to_the_workers(node: Node) -> None:
    node.listeners.pop().close()
    found = node.prove("a1")
    assert [(each.part, each.is_mendable) for each in found] == [(Part.LISTENER, False)]
    node.capture("a1")
    assert node.prove("a1") == found
    node.listen()
    assert node.prove("a1") == ()
