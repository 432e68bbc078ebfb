"""Checks of `ztun doctor` on what ztun has in the kernel of a node, read from the pins: no agent runs meanwhile."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from agent.doctor import inside_pod, program_checks
from agent.doctor.agent_checks import judge_certificates
from agent.doctor.check import Verdict
from agent.doctor.examination import examine
from agent.doctor.flow import Flow, Step, explain_flow
from agent.doctor.names_check import dns
from agent.doctor.of_pod import explain_pod
from agent.doctor.site import Site
from agent.lab.agents import ZTUN
from agent.lab.blueprint import generate, parse
from agent.lab.topology import Topology
from redirect import netns, sys_bpf
from redirect.features import has_tcx
from redirect.layout import MAPS
from redirect.maps import Maps
from redirect.prefilter import PrefilterMaps, Source
from tests.support.patient import ILL, site_at
from tests.support.redirect_lab import ECHO_PORT, Node, instance_name, redirected

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    topology = Topology(f"hdd{os.getpid()}", tmp_path_factory.mktemp("run"))
    try:
        topology.up(parse(generate(2)))
        yield topology
    finally:
        topology.down()


@pytest.fixture(scope="module")
def node(lab: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """With one pod captured, and listeners."""
    with redirected(lab, "node-a", tmp_path_factory.mktemp("node"), instance=instance_name("d")) as made:
        made.capture("a1")
        yield made


@pytest.fixture(scope="module")
def site(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Site:
    redirection = node.redirection
    return site_at(
        tmp_path_factory.mktemp("site"),
        redirection.instance,
        redirection.pins.run_dir,
        xds_address="127.0.0.1:9",
    )


def ill(site: Site, node: Node) -> dict[str, str]:
    """What has failed or warns, with the command that would mend it."""
    with netns.entered(node.place.netns):
        return {check.name: check.command for check in examine(site) if check.verdict in ILL}


@contextmanager
def ill_with(site: Site, node: Node, name: str, without: set[str]) -> Iterator[str]:
    found = ill(site, node)
    assert found.keys() - without == {name}
    yield found[name]
    assert ill(site, node).keys() == without


@pytest.fixture(scope="module")
def usual(site: Site, node: Node) -> set[str]:
    """There is neither an agent nor a control plane, and the lab forwards as it is."""
    found = set(ill(site, node))
    assert found >= {"agent", "control plane"}
    assert not found & {
        "rp_filter",
        "inner MTU",
        "foreign programs",
        "listeners",
        "room in maps",
        "drops",
        "drift",
        "generations",
    }
    return found


def test_captured_pods_without_an_agent(site: Site, node: Node, usual: set[str]) -> None:
    """The other way round: what is captured is let go, and nobody misses the agent."""
    assert "agent" in usual
    node.capture()
    try:
        assert ill(site, node).keys() == usual - {"agent"}
    finally:
        node.capture("a1")


def test_what_is_printed_mends_it(site: Site, node: Node, usual: set[str], tmp_path: Path) -> None:
    root = site.pins.root
    pod_side, net_side = (path.name for path in node.redirection.private_namespaces)
    with netns.entered(node.place.netns):
        (inner,) = (name for _, name in socket.if_nameindex() if name.endswith("-mi"))
    broken = {
        "rp_filter": f"nsenter --net=/run/netns/{net_side} sysctl -qw net.ipv4.conf.all.rp_filter=1",
        "inner MTU": f"ip link set dev {inner} mtu 1300",
        "generations": f"mkdir {root}/0123456789ab",
        "break glass": f"ztun bypass --node --for 1m --reason test --instance {site.instance} --run-dir {site.run_dir}",
    }
    assert pod_side != net_side
    for name, command in broken.items():
        typed(node, command)
        with ill_with(site, node, name, usual) as remedy:
            typed(node, remedy)


def typed(node: Node, command: str) -> None:
    with netns.entered(node.place.netns):
        subprocess.run(["bash", "-ec", f'ztun() {{ {shlex.join(ZTUN)} "$@"; }}; {command}'], check=True)


def test_a_program_of_somebody_else_before_ours(site: Site, node: Node, usual: set[str]) -> None:
    if not has_tcx():
        pytest.skip("this kernel has no tcx")
    with netns.entered(node.place.netns):
        number = socket.if_nametoindex(node.pod("a1").ifname)
        greedy = sys_bpf.load_verdict("greedy", -1)
        link = sys_bpf.link_create(greedy, number, sys_bpf.BPF_TCX_INGRESS, sys_bpf.BPF_F_BEFORE)
    try:
        with ill_with(site, node, "foreign programs", usual):
            with netns.entered(node.place.netns):
                (check,) = examine(site, ["foreign programs"])
            assert "greedy" in check.words and node.pod("a1").ifname in check.words
            sys_bpf.link_detach(link)  # its owner takes it off
    finally:
        os.close(link)
        os.close(greedy)


def test_listeners_that_are_gone(site: Site, node: Node, usual: set[str]) -> None:
    node.deafen()
    with ill_with(site, node, "listeners", usual):
        node.listen()


def test_what_somebody_took_away_of_the_kernel_side(site: Site, node: Node, usual: set[str]) -> None:
    """An agent that is started makes it good, as `capture` does."""
    fd = sys_bpf.obj_get(site.pins.links / "lookup_net_side")
    sys_bpf.link_detach(fd)
    os.close(fd)
    with ill_with(site, node, "drift", usual):
        with netns.entered(node.place.netns):
            (check,) = examine(site, ["drift"])
        assert "lookup_net_side is not attached" in check.words and "start the agent" in check.remedy
        node.capture("a1")


def test_packets_that_are_lost_for_want_of_something_of_ours(
    site: Site, node: Node, usual: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with netns.entered(node.pod("a1").netns):
        sock = socket.socket()
        sock.setblocking(False)

    def meanwhile(_: float) -> None:
        sock.connect_ex((str(node.pod("b1").address(4)), ECHO_PORT))

    with sock, monkeypatch.context() as changed:
        changed.setattr(program_checks.time, "sleep", meanwhile)
        node.deafen()
        with netns.entered(node.place.netns):
            (check,) = examine(site, ["drops"])
        node.listen()
    assert check.verdict is Verdict.WARNING and "from_pod NO_LISTENER" in check.words
    assert ill(site, node).keys() == usual


def test_a_map_that_is_nearly_full(site: Site, node: Node, usual: set[str]) -> None:
    made = [ip_address("fd00:fff::") + number for number in range(MAPS["hostips"].max_entries)]
    with Maps(site.pins.generation) as maps, ExitStack() as stack:
        for address in made[: int(0.95 * len(made))]:
            maps.put_host_address(address)
            stack.callback(maps.delete_host_address, address)
        # Who put them there is nobody of ours.
        assert ill(site, node).keys() - usual == {"room in maps", "drift"}
        stack.close()
        assert ill(site, node).keys() == usual


ROW = {"identity": "spiffe://x/ns/a/sa/b", "state": "Available", "left_s": 7200.0, "failures": 0, "error": ""}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, Verdict.OK),
        ({"left_s": -1.0, "error": "no CA answers"}, Verdict.FAILED),
        ({"left_s": None, "state": "Initializing"}, Verdict.FAILED),
        ({"left_s": 300.0}, Verdict.WARNING),
        ({"failures": 3, "error": "no CA answers"}, Verdict.WARNING),
    ],
)
def test_certificates(change: dict[str, object], verdict: Verdict) -> None:
    check = judge_certificates([ROW | change])
    assert (check.name, check.verdict) == ("certificates", verdict)
    assert verdict is Verdict.OK or "spiffe://x/ns/a/sa/b" in check.words


def test_what_becomes_of_a_connection_is_said_without_an_agent(site: Site, node: Node) -> None:
    def told(source: str, destination: str) -> list[Step]:
        with netns.entered(node.place.netns):
            return explain_flow(site, Flow.parse(f"{source}-{destination}"))

    a1, a2, b1 = (node.pod(name).address(4) for name in ("a1", "a2", "b1"))
    steps = {step.where: step for step in told(f"{a1}:4000", f"{b1}:80")}
    assert "SYN_TO_PROXY" in steps["from_pod"].words and steps["agent"].verdict is Verdict.CANNOT_TELL
    assert "no captured pod" in steps["destination"].words
    steps = {step.where: step for step in told(f"{a2}:4000", f"{a1}:80")}
    assert "SYN_TO_PROXY" in steps["to_pod"].words and "plaintext" in steps["to_pod"].words
    node.deafen()
    try:
        lost = {step.where: step for step in told(f"{a2}:4000", f"{a1}:15008")}["to_pod"]
        assert lost.verdict is Verdict.FAILED and "NO_LISTENER" in lost.words
    finally:
        node.listen()


def test_a_server_that_does_not_listen_is_named(site: Site, node: Node) -> None:
    pod, a2 = node.pod("a1"), node.pod("a2").address(4)
    a1 = pod.address(4)

    def application(port: int) -> Step:
        with netns.entered(node.place.netns):
            steps = explain_flow(site, Flow.parse(f"{a2}-{a1}:{port}"))
        return {step.where: step for step in steps}["application"]

    with netns.entered(pod.netns):
        everywhere = socket.create_server(("::", 7001), family=socket.AF_INET6, dualstack_ipv6=True)
        only_6 = socket.create_server(("::", 7002), family=socket.AF_INET6)
        inside = socket.create_server(("127.0.0.1", 7003))
    with everywhere, only_6, inside:
        assert application(7001).verdict is Verdict.OK
        assert application(7002).verdict is Verdict.FAILED
        lost = application(7003)
    assert lost.verdict is Verdict.FAILED and "only at 127.0.0.1" in lost.words
    assert application(7001).verdict is Verdict.FAILED


def test_a_name_server_that_does_not_answer_a_pod_is_named(
    site: Site, node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The pod's namespace has a name and no process: its resolv.conf is where `ip netns` has it."""
    namespace = Path(node.pod("a1").netns)
    own = tmp_path / namespace.name / "resolv.conf"
    own.parent.mkdir()
    monkeypatch.setattr(inside_pod, "NETNS_CONFIGURATION", tmp_path)
    with netns.entered(node.place.netns):
        assert dns(site).verdict is Verdict.OK  # the machine's own is nobody's matter here
        own.write_text("search nowhere\nnameserver 127.0.0.1\n")
        check = dns(site)
        assert (check.name, check.verdict) == ("DNS", Verdict.WARNING)
        assert "127.0.0.1 does not answer" in check.words
        with netns.entered(namespace):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("127.0.0.1", 53))
        with server, ThreadPoolExecutor(1) as threads:
            for code, verdict in ((0, Verdict.OK), (5, Verdict.WARNING)):
                answered = threads.submit(_answer, server, code)
                assert dns(site).verdict is verdict
                answered.result()


def _answer(server: socket.socket, code: int) -> None:
    server.settimeout(10)
    query, client = server.recvfrom(512)
    server.sendto(query[:2] + bytes((0x81, code)) + query[4:], client)


def test_what_programs_deny_is_said_to_be_denied(site: Site, node: Node) -> None:
    a1, a2, b1 = (node.pod(name).address(4) for name in ("a1", "a2", "b1"))
    with Maps(site.pins.generation) as maps, closing(PrefilterMaps(site.pins.generation)) as written:
        entry = maps.pod(a1)
        assert entry is not None
        sources = [Source(80, ip_network(f"{a2}/32"), is_denied=True)]
        number = written.put_set(sources)
        written.link(a1, entry.ifindex, number)
        try:
            with netns.entered(node.place.netns):
                told = {
                    where: _arrival(explain_flow(site, Flow.parse(f"{where}-{a1}:{port}")))
                    for where, port in ((f"{a2}:4000", 80), (f"{a2}:4001", 81), (f"{b1}:4000", 80))
                }
        finally:
            written.unlink(a1)
            written.drop_set(number, sources)
    assert [step.verdict for step in told.values()] == [Verdict.FAILED, Verdict.OK, Verdict.OK]
    assert "DENIED" in told[f"{a2}:4000"].words


def _arrival(steps: list[Step]) -> Step:
    return next(step for step in steps if step.where == "to_pod")


def test_of_a_pod_that_is_not_captured_it_is_said_who_is(site: Site, node: Node) -> None:
    with (
        netns.entered(node.place.netns),
        pytest.raises(LookupError, match="no pod lab/a1 is captured here; none is"),
    ):
        explain_pod(site, "lab/a1")  # captured without a note of whose it is
