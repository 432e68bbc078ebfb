"""Pods that an istio-cni names: closed before all else, served when the mesh knows them, never let go by an outage.

Real agents, namespaces, rules and traffic; the server of the ZDS socket is the test's, as strict as istio-cni's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.zds.source import BACKOFF
from redirect import other_mesh
from redirect.netns import entered
from tests.support.labmesh import SILENCE_S, World, pod_manifests, running
from tests.support.labtraffic import Talk, until
from tests.support.zds_server import SNAPSHOT_SENT, Named, ZdsServer, add, delete, keep

pytestmark = pytest.mark.kernel

# As istio-cni prepares a pod: rules that lead to a proxy inside of it, and a way for the packets that it marks.
PREPARED = """
iptables-nft -t mangle -N ISTIO_PRERT
iptables-nft -t mangle -A PREROUTING -j ISTIO_PRERT
iptables-nft -t mangle -A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
iptables-nft -t nat -N ISTIO_OUTPUT
iptables-nft -t nat -A OUTPUT -j ISTIO_OUTPUT
iptables-nft -t nat -A ISTIO_OUTPUT -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-port 15053
iptables-nft -t nat -A ISTIO_OUTPUT -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
ip rule add fwmark 0x111/0xfff pref 32764 lookup 100
ip route add local 0.0.0.0/0 dev lo table 100
"""
# And how it takes that back from one that goes on outside of the mesh, before it says `del`.
TAKEN_BACK = """
ip rule del fwmark 0x111/0xfff pref 32764 lookup 100
ip route del local 0.0.0.0/0 dev lo table 100
"""


class Cni:
    """An istio-cni beside node-a's agent."""

    def __init__(self, world: World, server: ZdsServer) -> None:
        self.world = world
        self.server = server

    def named(self, name: str, uid: str, *, at: str = "") -> Named:
        """The pod of that name, in its namespace or in that of another."""
        return Named(uid, name, self.world.pod(at or name).netns, name.partition("-")[0])

    def inside(self, name: str, script: str) -> None:
        for line in script.strip().splitlines():
            with entered(self.world.pod(name).netns):
                subprocess.run(line.split(), check=True)

    def prepare(self, name: str) -> None:
        self.inside(name, PREPARED)

    def enrol(self, name: str, uid: str) -> str:
        self.prepare(name)
        return self.server.add(self.named(name, uid))

    def take_back(self, name: str, uid: str) -> None:
        """Take a running pod out of the mesh."""
        self.inside(name, TAKEN_BACK)
        assert self.server.delete(uid) == ""

    def served(self) -> set[str]:
        return {row["pod"].removeprefix("demo/") for row in self.world.status()["pods"]}

    def is_open(self, client: str, server: str = "outsider-b") -> bool:
        try:
            with self.world.dial(client, self.world.address(server), timeout_s=SILENCE_S) as sock:
                Talk(sock).say()
        except OSError:
            return False
        return True

    def reasons(self) -> str:
        return " ".join(self.world.status()["reasons"])


@pytest.fixture(scope="module")
def cni(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cni]:
    if shutil.which("iptables-nft") is None:
        pytest.skip("iptables-nft is not installed")
    directory = tmp_path_factory.mktemp("zds")
    with running("z", directory, enrolled=False) as world:
        for name in ("client-b", "server-b"):
            world.mesh.enroll(world.pod(name))
        server = ZdsServer(directory / "ztunnel.sock")
        server.start()
        try:
            world.kill_all("node-a")
            world.mesh.flags = {"zds-socket": str(server.path)}
            world.restart("node-a")
            yield Cni(world, server)
            assert not server.faults
            assert server.slowest_s < 5.0
        finally:
            server.stop()


@pytest.fixture(autouse=True)
def nobody(cni: Cni) -> Iterator[None]:
    """Everything is taken back and in clear when a test ends."""
    yield
    if not cni.server.is_running:
        cni.server.start()
    cni.server.wait_whole()
    for name in ("client-a", "server-a", "spare-a", "outsider-a"):
        with entered(cni.world.pod(name).netns):
            if other_mesh.has_ambient_routing():
                cni.inside(name, TAKEN_BACK)
    for uid in list(cni.server.pods):
        cni.server.delete(uid)
    for name in ("client-a", "server-a", "spare-a", "outsider-a"):
        if not cni.is_open(name):
            cni.world.mesh.unenroll(cni.world.pod(name))
    until(lambda: not cni.served(), "nobody is served")


def test_a_pod_is_closed_before_it_is_announced_and_served_after(cni: Cni) -> None:
    world = cni.world
    everybody = pod_manifests()
    at = everybody.index("---\napiVersion: v1\nkind: Pod\nmetadata: {name: spare-a")
    without = everybody[:at] + everybody[everybody.index("---", at + 4) :]
    pods = world.mesh.manifests / "pods.yaml"
    assert cni.is_open("spare-a")
    world.write(pods, without)
    try:
        until(lambda: "spare-a" not in str(world.mesh.ask("node-a", "GET", "/announced")), "nobody lists it")
        assert cni.enrol("spare-a", "u-spare") == ""
        assert not cni.is_open("spare-a"), "it was answered for before it was closed"
        with entered(world.pod("spare-a").netns):
            assert not other_mesh.find(), "what led to a proxy inside is still there"
        assert "control plane lists no pod demo/spare-a" in cni.reasons()
        world.write(pods, everybody)
        until(lambda: cni.served() == {"spare-a"}, "it is served")
    finally:
        world.write(pods, everybody)
    log = world.log("node-a")
    fragments = ('direction="outbound"', ":15008", "spiffe://cluster.local/ns/demo/sa/spare")
    # The other node may not have been told of it yet: until then it sends in clear, and is let in.
    until(
        lambda: world.is_served("spare-a", world.address("server-b")) and log.lines(*fragments),
        "it goes by the mesh, under its own name",
    )


def test_what_it_takes_back_is_in_clear_and_what_is_only_gone_stays_closed(cni: Cni) -> None:
    assert cni.enrol("client-a", "u-client") == cni.enrol("server-a", "u-server") == ""
    until(lambda: cni.served() == {"client-a", "server-a"}, "both are served")
    assert cni.world.is_served("client-a", cni.world.address("server-a"))
    cni.take_back("server-a", "u-server")
    assert cni.is_open("server-a") and cni.served() == {"client-a"}
    # Of a pod that was deleted nothing is taken back: it may live on for a while.
    assert cni.server.delete("u-client") == cni.server.delete("u-client") == cni.server.delete("u-0") == ""
    assert not cni.is_open("client-a") and not cni.served()


def test_the_same_uid_in_another_namespace(cni: Cni) -> None:
    assert cni.server.add(cni.named("outsider-a", "u-1", at="spare-a")) == ""
    until(lambda: "demo/outsider-a" in cni.reasons(), "it has the address of another")
    assert not cni.is_open("spare-a") and cni.is_open("outsider-a")
    assert cni.server.add(cni.named("outsider-a", "u-1")) == ""
    until(lambda: cni.served() == {"outsider-a"}, "it is served where it is now")
    assert not cni.is_open("spare-a"), "the namespace it had is closed while its interface is there"
    taken = cni.server.add(cni.named("spare-a", "u-2", at="outsider-a"))
    assert taken.endswith("its network namespace is that of pod demo/outsider-a")


def test_an_outage_lets_nobody_go_and_the_next_snapshot_those_that_it_lacks(cni: Cni) -> None:
    world, server = cni.world, cni.server
    for name in ("client-a", "server-a", "spare-a"):
        assert cni.enrol(name, f"u-{name}") == ""
    until(lambda: cni.served() == {"client-a", "server-a", "spare-a"}, "all are served")
    server.stop()
    until(lambda: "istio-cni cannot be reached" in cni.reasons(), "it is missed")
    assert world.http("node-a", 15021, "/healthz/ready")[0] == 500
    assert (
        world.status()["zds"]["is_connected"] is False and world.metric("node-a", "ztun_zds_connected") == 0
    )
    assert world.is_served("client-a", world.address("server-a"))
    world.kill_all("node-a")
    world.mesh.start_agent(world.node("node-a"))
    until(
        lambda: is_there(world) and cni.served() == {"client-a", "server-a", "spare-a"}, "the next agent too"
    )
    assert world.is_served("client-a", world.address("server-a"))
    # Meanwhile one is taken back, and one is kept for want of its namespace.
    del server.pods["u-server-a"]
    cni.inside("server-a", TAKEN_BACK)
    server.pods["u-spare-a"] = Named("u-spare-a", "spare-a", None)
    server.start()
    server.wait_whole(BACKOFF.longest_s * 4)
    assert server.snapshot_answers == []
    until(lambda: cni.served() == {"client-a", "spare-a"}, "what the snapshot lacks is let go")
    assert cni.is_open("server-a")
    until(lambda: world.status()["state"] == "READY", "it is heard again")
    assert world.http("node-a", 15021, "/healthz/ready")[0] == 200
    row = world.status()["zds"]
    assert (row["is_connected"], row["has_snapshot"], row["pods"], row["error"]) == (True, True, 2, "")


def is_there(world: World) -> bool:
    return world.cli("status", node="node-a").returncode in (0, 3)


def test_rules_that_came_back_with_another_istio_cni_go_again(cni: Cni) -> None:
    assert cni.enrol("client-a", "u-client") == ""
    until(lambda: cni.served() == {"client-a"}, "it is served")
    cni.server.stop()
    cni.inside("client-a", "\n".join(line for line in PREPARED.splitlines() if "iptables" in line))
    cni.server.start()
    cni.server.wait_whole()
    assert cni.world.is_served("client-a", cni.world.address("server-b"))
    assert cni.served() == {"client-a"}


def test_what_cannot_be_captured_is_answered_with_the_reason(cni: Cni) -> None:
    node = Named("u-node", "client-a", cni.world.node("node-a").netns)
    assert "the node's own network namespace" in cni.server.add(node)
    assert "pod demo/client-a is not captured" in cni.reasons()
    assert cni.server.delete("u-node") == ""
    until(lambda: cni.world.status()["state"] == "READY", "it is forgotten")
    with open("/dev/null") as null:
        pipe = Path(f"/proc/self/fd/{null.fileno()}")
        assert "leads to no namespace" in cni.server.ask(add(cni.named("client-a", "u-1")), pipe)
    another = cni.named("client-a", "u-2")
    assert cni.server.add(Named("u-2", "client-a", another.netns, "someone-else")) == ""
    until(lambda: "says that it runs as someone-else" in cni.reasons(), "its account is another")
    assert not cni.is_open("client-a") and not cni.served()


@pytest.mark.parametrize(
    ("packet", "namespaces"),
    [
        (b"\xff\xff", 0),
        (b"\xff" * 900, 3),
        (add(Named("u-1", "client-a", None)), 0),
        (add(Named("u-1", "client-a", None)), 2),
        (delete("u-1"), 1),
        (SNAPSHOT_SENT, 0),
        (keep("u-1"), 0),
    ],
    ids=["garbage", "with descriptors", "none", "two", "of a del", "second snapshot", "late keep"],
)
def test_what_breaks_the_protocol_is_answered_and_leaks_nothing(
    cni: Cni, packet: bytes, namespaces: int
) -> None:
    agent = cni.world.process("agent-node-a")
    place = cni.world.pod("client-a").netns
    connections = cni.server.connections
    assert cni.server.ask(packet, *[place] * namespaces)
    until(lambda: cni.server.connections > connections, "it connects anew")
    cni.server.wait_whole()
    # By what they are: the name of a descriptor is that by which it was opened.
    held = [Path(f"/proc/{agent.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{agent.pid}/fd")]
    assert not [path for path in held if path.exists() and path.samefile(place)]
    assert cni.is_open("client-a")
