"""Enrolling and letting go while traffic runs, and every pod that is refused with its reason."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from agent.admin.client import AgentRefused
from agent.lab import firewall
from agent.lab.topology import PodPlace
from tests.support.labmesh import POD, PORT, World
from tests.support.labtraffic import until
from tests.support.ongoing import Traffic

pytestmark = pytest.mark.kernel


@contextmanager
def enrolled(world: World, name: str, *, keep_existing: bool = False) -> Iterator[dict[str, object]]:
    """A pod captured for the block."""
    pod = world.pod(name)
    answer = world.mesh.enroll(pod, keep_existing=keep_existing)
    world.mesh.wait_announced(pod)
    try:
        yield answer
    finally:
        world.mesh.unenroll(pod)
        until(lambda: not is_announced(world, pod), f"{name} is plain again")


def is_announced(world: World, pod: PodPlace) -> bool:
    return any(pod.key in world.mesh.ask(node, "GET", "/announced") for node in world.lab.nodes)


def enroll(world: World, node: str, name: str, **where: object) -> dict[str, object]:
    answer: dict[str, object] = world.mesh.ask(
        node, "POST", "/enroll", {"namespace": "demo", "name": name} | where
    )
    return answer


AMBIENT = """
table ip nat {
  chain ISTIO_OUTPUT { tcp dport 1-65535 redirect to :15001; }
  chain output {
    type nat hook output priority -100
    jump ISTIO_OUTPUT
  }
}
"""


def test_rules_of_another_mesh_are_refused_and_cleaned_on_demand(world: World) -> None:
    spare = world.pod("spare-a")
    firewall.apply(spare.netns, AMBIENT)
    where = ("demo/spare-a", "--netns", str(spare.netns))
    refused = world.cli("enroll", *where, node="node-a")
    assert refused.returncode == 1
    assert "still in another mesh" in refused.stderr and "--clean" in refused.stderr
    done = world.cli("enroll", *where, "--clean", node="node-a")
    try:
        assert done.returncode == 0, done.stderr
        assert "taken out of the pod: iptables chains ISTIO_OUTPUT" in done.stdout
        assert world.is_served("spare-a", world.address("server-b"))
    finally:
        world.cli("unenroll", "demo/spare-a", node="node-a")


def test_a_pod_is_captured_from_the_next_connection_on_and_open_ones_are_reset(world: World) -> None:
    address = world.address("outsider-b")
    with world.talk("spare-a", address) as before:
        assert before.say()["client"] == before.address
        with enrolled(world, "spare-a") as answer:
            assert answer["identity"] == "spiffe://cluster.local/ns/demo/sa/spare"
            with pytest.raises(ConnectionResetError):
                before.say()
            log = world.log("node-a")
            with world.talk("spare-a", world.address("server-b")) as talk:
                assert talk.say()["client"].startswith(world.address("spare-a"))
                own = talk.address
            assert "sa/spare" in log.line('direction="outbound"', f"src.addr={own}")


def test_open_connections_may_be_kept_and_are_reported_and_none_falls_between(world: World) -> None:
    address = world.address("outsider-b")
    with world.talk("spare-a", address) as kept, ExitStack() as stack:
        kept.say()
        before = Counter(world.counters("node-a"))
        with Traffic(world, "spare-a", address) as traffic:
            traffic.goes_on()
            answer = stack.enter_context(enrolled(world, "spare-a", keep_existing=True))
            traffic.goes_on()
        assert not traffic.failures
        after = Counter(world.counters("node-a"))
        assert after["from_pod", "CLOSED"] == before["from_pod", "CLOSED"], "no SYN has to be sent again"
        assert after["from_pod", "LEARNING"] > before["from_pod", "LEARNING"]
        assert any(re.search(r"keep [2-9] open connections", str(note)) for note in answer["notes"]), answer
        assert kept.say()["client"] == kept.address
        log = world.log("node-a")
        with world.talk("spare-a", address) as fresh:
            fresh.say()
            own = fresh.address
        log.line('direction="outbound"', f"src.addr={own}")
        assert not log.lines(f"src.addr={kept.address}")
        kept.say()
        until(lambda: kept_row(world)["open"] == 1, "it is shown")


def kept_row(world: World) -> dict[str, object]:
    (row,) = (each for each in world.status("node-a")["pods"] if each["pod"] == "demo/spare-a")
    kept: dict[str, object] = row["kept_connections"]
    return kept


def test_open_connections_may_be_kept_for_a_time(world: World) -> None:
    with world.talk("spare-a", world.address("outsider-b")) as kept:
        kept.say()
        log, where = world.log("node-a"), str(world.pod("spare-a").netns)
        done = world.cli("enroll", "demo/spare-a", "--netns", where, "--keep-for", "2", node="node-a")
        try:
            assert re.search("open connections? of pod-spare-a for 2 s", done.stdout), done.stderr
            kept.say()
            until(kept.is_ended, "its time is over")
            log.line("pod demo/spare-a: 1 connection from before it was enrolled is reset")
            until(lambda: kept_row(world) == {"open": 0, "ends_at": ""}, "nothing is left")
        finally:
            world.mesh.unenroll(world.pod("spare-a"))
            until(lambda: not is_announced(world, world.pod("spare-a")), "it is plain again")


@pytest.mark.parametrize("server", ["server-a", "server-b"])
def test_a_pod_that_is_let_go_is_reset_and_talks_plainly_again(world: World, server: str) -> None:
    client = world.pod("client-a")
    with world.talk("client-a", world.address(server)) as live:
        live.say()
        world.mesh.unenroll(client)
        try:
            until(live.is_ended, "the live connection is reset")
            log = world.log("node-a")
            with world.talk("client-a", world.address(server)) as plain:
                assert plain.say()["client"].rpartition(":")[0] == world.address("client-a")
                own = plain.address
            assert not log.lines('direction="outbound"', own)
        finally:
            world.mesh.enroll(client)
            world.mesh.wait_announced(client)
    log = world.log("node-a")
    world.ask("client-a", world.address(server))
    log.line('direction="outbound"', "sa/client")


def goes_past(world: World, client: str, server: str) -> bool:
    """Whether the server sees the port that its client has, in front of the mesh."""
    with world.talk(client, world.address(server)) as plain:
        return bool(plain.say()["client"] == plain.address)


def test_what_the_mesh_carries_may_end_by_itself_while_the_pod_leaves(world: World) -> None:
    server = world.pod("server-b")
    with (
        world.talk("client-a", world.address("server-b")) as live,
        world.talk("client-a", world.address("server-b")) as idle,
    ):
        live.say()
        idle.say()
        left: list[int] = []
        leaving = threading.Thread(target=lambda: left.append(world.mesh.unenroll(server, drain_s=25)))
        leaving.start()
        try:
            until(lambda: not is_announced(world, server), "the mesh has heard")
            (row,) = (each for each in world.status("node-b")["pods"] if each["pod"] == "demo/server-b")
            assert row["is_draining"]
            until(lambda: goes_past(world, "client-a", "server-b"), "new ones go past the mesh")
            live.say()
            idle.sock.shutdown(socket.SHUT_RDWR)
            live.say()
            live.sock.shutdown(socket.SHUT_RDWR)
        finally:
            leaving.join()
            world.mesh.enroll(server)
            world.mesh.wait_announced(server)
        assert left == [0], "none had to be reset"
    assert world.ask("client-a", world.address("server-b")) == world.address("client-a")


def test_what_is_left_when_the_time_is_over_is_reset_and_counted(world: World) -> None:
    client = world.pod("client-a")
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        done = world.cli("unenroll", "demo/client-a", "--drain", "1", node="node-a")
        try:
            assert done.stdout == "un-enrolled demo/client-a; 1 connection of it was reset\n", done.stderr
            until(live.is_ended, "it is reset")
        finally:
            world.mesh.enroll(client)
            world.mesh.wait_announced(client)


def test_a_server_that_is_let_go_is_reached_plainly(world: World) -> None:
    server = world.pod("server-b")
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        world.mesh.unenroll(server)
        try:
            until(live.is_ended, "the live connection is reset")
            until(lambda: not is_announced(world, server), "the mesh has heard")
            until(lambda: goes_past(world, "client-a", "server-b"), "so have the workers of its client")
        finally:
            world.mesh.enroll(server)
            world.mesh.wait_announced(server)
    assert world.ask("client-a", world.address("server-b")) == world.address("client-a")


def test_enrolling_again_changes_nothing(world: World) -> None:
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        world.mesh.enroll(world.pod("client-a"))
        live.say()
    pods = [pod["pod"] for pod in world.status("node-a")["pods"]]
    assert sorted(pods) == ["demo/client-a", "demo/server-a"]


@pytest.mark.parametrize(
    ("node", "name", "where", "reason"),
    [
        ("node-a", "nobody", "spare-a", "the control plane lists no pod demo/nobody"),
        (
            "node-a",
            "spare-a",
            "outsider-a",
            "has 10.77.1.13, fd77:1::13, but the control plane lists 10.77.1.14",
        ),
        ("node-a", "spare-b", "spare-b", "this node"),
        ("node-a", "spare-b", "spare-a", "pod demo/spare-b is on node 'node-b'"),
        ("node-a", "spare-a", "node-a", "hostNetwork"),
        ("node-a", "spare-a", "/run/netns/hj-none", "no such file"),
    ],
    ids=["unknown", "wrong-addresses", "elsewhere", "wrong-node", "host-network", "no-namespace"],
)
def test_what_is_not_that_pod_is_refused_with_the_reason(
    world: World, node: str, name: str, where: str, reason: str
) -> None:
    before = world.status(node)["pods"]
    path = where if where.startswith("/") else str(world.place(where).netns)
    with pytest.raises(AgentRefused, match=reason):
        enroll(world, node, name, netns=path)
    assert world.status(node)["pods"] == before
    assert world.is_served("spare-a", world.address("outsider-b")), "it is as open as before"


def test_a_pod_of_the_host_network_is_refused(world: World) -> None:
    pods = world.mesh.manifests / "pods.yaml"
    text = pods.read_text()
    plain = POD.format(name="spare-a", account="spare", node="node-a", side=1, low=14)
    try:
        world.write(pods, text.replace(plain, plain.replace("spec:\n", "spec:\n  hostNetwork: true\n")))

        def refusal() -> str:
            try:
                enroll(world, "node-a", "spare-a", netns=str(world.pod("spare-a").netns))
            except AgentRefused as error:
                return str(error)
            world.mesh.unenroll(world.pod("spare-a"))
            return ""

        assert "uses the host's network" in until(refusal, "a refusal")
    finally:
        world.write(pods, text)


def test_a_pod_whose_account_changes_is_closed_until_it_is_enrolled_anew(world: World) -> None:
    """The manifest now says another account than the one the pod was enrolled with: nobody may speak for it."""
    pods = world.mesh.manifests / "pods.yaml"
    text = pods.read_text()
    plain = POD.format(name="server-b", account="server", node="node-b", side=2, low=12)
    seen = len(world.application("server-b").clients)
    try:
        world.write(
            pods,
            text.replace(plain, plain.replace("serviceAccountName: server", "serviceAccountName: other")),
        )
        until(lambda: world.status("node-b")["state"] == "DEGRADED", "the agent says so")
        assert "demo/server-b: control plane: enrolled, but" in " ".join(world.status("node-b")["reasons"])
        log = world.log("node-a")
        assert not world.is_served("client-a", world.address("server-b"))
        assert "error" in log.line('direction="outbound"', f"dst.addr={world.address('server-b')}:15008")
        assert not world.is_served("outsider-a", world.address("server-b"))
        assert len(world.application("server-b").clients) == seen
    finally:
        world.write(pods, text)
        world.mesh.wait_ready("node-b")
    until(lambda: world.is_served("client-a", world.address("server-b")), "it is served again")


def test_the_command_line_enrolls_and_lets_go(world: World) -> None:
    done = world.cli("enroll", "demo/spare-b", "--netns", str(world.pod("spare-b").netns), node="node-b")
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(
            "enrolled demo/spare-b as spiffe://cluster.local/ns/demo/sa/spare on pod-spare-b"
        )
    finally:
        done = world.cli("unenroll", "demo/spare-b", node="node-b")
    assert (done.returncode, done.stdout) == (0, "un-enrolled demo/spare-b\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["enroll", "demo/nobody", "--ifname", "pod-spare-b"], "lists no pod demo/nobody"),
        (["enroll", "demo/spare-b", "--ifname", "nosuch"], "no interface nosuch"),
        (["enroll", "demo/spare-b", "--pid", "999999999"], "no such process"),
        (["enroll", "spare-b", "--ifname", "x"], "is not NAMESPACE/NAME"),
        (["enroll", "demo/spare-b"], "say where the pod is"),
        (["unenroll", "demo/spare-b"], "is not enrolled here"),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_line(
    world: World, arguments: list[str], reason: str
) -> None:
    done = world.cli(*arguments, node="node-b")
    assert done.returncode != 0 and done.stdout == ""
    assert reason in done.stderr and done.stderr.count("\n") == 1


def test_a_port_of_the_pod_that_nobody_serves_is_refused_to_the_client(world: World) -> None:
    log = world.log("node-b")
    with pytest.raises(OSError), world.talk("client-a", world.address("server-b"), PORT + 1) as talk:
        talk.say()
    assert "CONNECT_FAILED" in log.line('direction="inbound"', f":{PORT + 1}")
