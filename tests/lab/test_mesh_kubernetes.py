"""Labels in the Kubernetes API enrol running pods, and nothing that happens to the API lets one go.

Real agents, namespaces, control groups and traffic; the API is the fake one, so that it can be taken away.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.admin.client import AgentAbsent, AgentRefused
from agent.cni import ztun_cni
from agent.kubernetes.reflector import BACKOFF
from tests.support import kube
from tests.support.labcluster import MODE, LabCluster
from tests.support.labmesh import SILENCE_S, World, policy_manifest, principal, running
from tests.support.labtraffic import Talk, until
from tests.support.ongoing import Traffic

pytestmark = pytest.mark.kernel
PLUGIN = Path(ztun_cni.__file__)
BYPASS = "ambient.istio.io/bypass-inbound-capture"


@pytest.fixture(scope="module")
def world(cluster: LabCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("kubernetes")
    flags = cluster.flags | {"keep-existing-s": "300"}
    with running("k", directory, flags=flags, enrolled=False, prepare=cluster.prepare) as made:
        yield made


def served(world: World, node: str) -> set[str]:
    """Nobody, while the agent starts."""
    try:
        return {row["pod"].removeprefix("demo/") for row in world.status(node)["pods"]}
    except AgentAbsent:
        return set()


def is_served(world: World, *names: str) -> bool:
    return served(world, "node-a") | served(world, "node-b") == set(names)


def is_open(world: World, client: str, server: str) -> bool:
    try:
        with world.dial(client, world.address(server), timeout_s=SILENCE_S) as sock:
            Talk(sock).say()
    except OSError:
        return False
    return True


@pytest.fixture
def labelled(world: World, cluster: LabCluster) -> Iterator[None]:
    cluster.api.change("pods", "outsider-a", "demo", metadata={"labels": {MODE: "none"}})
    cluster.label("ambient")
    until(lambda: is_served(world, "client-a", "server-a", "client-b", "server-b"), "everybody is served")
    yield
    cluster.label(None)
    until(lambda: is_served(world), "nobody is served")


def test_a_label_takes_running_pods_in_and_lets_them_go(world: World, cluster: LabCluster) -> None:
    assert is_served(world)
    cluster.api.change("pods", "outsider-a", "demo", metadata={"labels": {MODE: "none"}})
    cluster.label("ambient")
    names = ("client-a", "server-a", "client-b", "server-b")
    until(lambda: is_served(world, *names), "everybody is served")
    until(lambda: all(cluster.says(name) == "enabled" for name in names), "the API is told")
    assert cluster.says("outsider-a") is None
    until(lambda: world.status("node-a")["state"] == "READY", "nothing is wrong")
    log = world.log("node-a")
    fragments = ('direction="outbound"', ":15008", "spiffe://cluster.local/ns/demo/sa/client")
    # The other node may not have been told of it yet: until then it sends in clear, and is let in.
    until(
        lambda: world.is_served("client-a", world.address("server-b")) and log.lines(*fragments),
        "it goes by the mesh, under its own name",
    )
    owners = [row["owner"] for row in json.loads(maps(world, "owners")) if row["owner"]]
    assert sorted(owners) == [f"demo/{name} {cluster.uids[name]}" for name in ("client-a", "server-a")]
    cluster.label(None)
    until(lambda: is_served(world), "nobody is served")
    until(lambda: not any(cluster.says(name) for name in names), "the API is told")
    assert not json.loads(maps(world, "owners"))
    assert world.is_served("client-a", world.address("server-b"))


def test_nothing_falls_between_when_a_label_takes_running_pods_in(world: World, cluster: LabCluster) -> None:
    """Across nodes and within one: what is open goes on, what is new is served, and no SYN has to be sent again."""
    names = ("client-a", "server-a", "client-b", "server-b")
    cluster.api.change("pods", "outsider-a", "demo", metadata={"labels": {MODE: "none"}})
    until(lambda: is_served(world), "nobody is served")
    before = [Counter(world.counters(node)) for node in ("node-a", "node-b")]
    paths = [Traffic(world, "client-a", world.address(name)) for name in ("server-a", "server-b")]
    with ExitStack() as stack:
        for traffic in paths:
            stack.enter_context(traffic).goes_on()
        cluster.label("ambient")
        until(lambda: is_served(world, *names), "everybody is served")
        for traffic in paths:
            traffic.goes_on()
    assert not [failure for traffic in paths for failure in traffic.failures]
    for node, counted in zip(("node-a", "node-b"), before, strict=True):
        during = Counter(world.counters(node)) - counted
        assert not during["from_pod", "CLOSED"] and not during["to_pod", "CLOSED"], "they were closed first"
        assert during["from_pod", "LEARNING"]
    cluster.label(None)
    until(lambda: is_served(world), "nobody is served")


class Plugin:
    """ztun-cni for pod spare-a, as a runtime runs it."""

    def __init__(self, world: World, uid: str, netns: str = "") -> None:
        pod = world.pod("spare-a")
        self.config = {
            "cniVersion": "1.1.0",
            "name": "lab",
            "type": "ztun-cni",
            "socket": str(world.mesh.run_dir("node-a") / "agent.sock"),
            "logFile": "",
            "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": f"{pod.address(4)}/32"}]},
        }
        self.environment = {
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": netns or str(pod.netns),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_UID={uid};K8S_POD_NAME=spare-a;K8S_POD_NAMESPACE=demo",
        }

    def start(self, command: str, **config: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [PLUGIN],
            env=self.environment | {"CNI_COMMAND": command},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.config | config))
        process.stdin.close()
        process.stdin = None
        return process

    def call(self, command: str, **config: Any) -> subprocess.CompletedProcess[str]:
        return ended(self.start(command, **config))


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(PLUGIN, process.returncode, out)


def announced(cluster: LabCluster) -> str:
    """The uid of a pod that the API has without an address."""
    uid = str(uuid.uuid4())
    cluster.api.create(
        kube.pod("spare-a", node="node-a", uid=uid, phase="Pending", serviceAccountName="spare")
    )
    return uid


@pytest.mark.usefixtures("labelled")
def test_a_pod_is_captured_before_the_cni_plugin_has_made_it(world: World, cluster: LabCluster) -> None:
    """As a runtime does it: the API has the pod without an address, and nothing runs in it yet."""
    pod = world.pod("spare-a")
    uid = announced(cluster)
    plugin = Plugin(world, uid)
    call = plugin.call
    assert is_open(world, "spare-a", "outsider-b")
    added = call("ADD")
    assert (added.returncode, json.loads(added.stdout)) == (0, plugin.config["prevResult"]), added.stdout
    owners = [row["owner"] for row in json.loads(maps(world, "owners"))]
    assert f"demo/spare-a {uid}" in owners
    # The control plane of the lab has listed it all the time: with a real one it is closed until then.
    until(lambda: "spare-a" in served(world, "node-a"), "it is served")
    assert call("CHECK").returncode == call("STATUS").returncode == 0
    cluster.api.delete("pods", "spare-a", "demo")
    assert call("DEL").returncode == call("DEL").returncode == 0
    until(lambda: "spare-a" not in served(world, "node-a"), "it is gone")
    refused = call("ADD")
    assert refused.returncode == 1 and json.loads(refused.stdout)["code"] == 11
    assert "pod demo/spare-a is not known" in json.loads(refused.stdout)["msg"]
    world.mesh.unenroll(pod)


def maps(world: World, name: str) -> str:
    done = world.cli("maps", "dump", name, "-o", "json", node="node-a")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    found: list[Any] = rows if isinstance(rows, list) else rows.get(name, rows)
    return json.dumps(found)


def test_labels_that_come_and_go_leave_nothing_behind(world: World, cluster: LabCluster) -> None:
    names = ("client-a", "server-a", "client-b", "server-b")
    cluster.api.change("pods", "outsider-a", "demo", metadata={"labels": {MODE: "none"}})
    control, files = world.process("agent-node-a"), []
    for _ in range(4):
        cluster.label("ambient")
        until(lambda: is_served(world, *names), "everybody is served")
        cluster.label(None)
        until(lambda: is_served(world), "nobody is served")
        until(lambda: not any(cluster.says(name) for name in names), "the API is told")
        until(lambda: not json.loads(maps(world, "owners")), "nothing is noted")
        assert not any(json.loads(maps(world, name)) for name in ("pods", "ifaces", "captures"))
        files.append(control.num_fds())
    # The first rounds open what stays open: certificates' timers, connections to the API; and some are just in use.
    until(lambda: control.num_fds() <= max(files[:2]), f"no file stays open: {files}")


@pytest.mark.usefixtures("labelled")
def test_a_pod_may_take_plaintext_in_by_itself_and_nothing_else(world: World, cluster: LabCluster) -> None:
    """As ingress gateways do: their clients are not of the mesh, and no policy of the mesh is about them."""

    def annotate(value: str | None, *, expected: bool) -> None:
        annotations: Any = {"annotations": {BYPASS: value}}
        cluster.api.change("pods", "server-a", "demo", metadata=annotations)
        until(lambda: bypassed(world) == ({"server-a"} if expected else set()), "the annotation is in force")

    addresses = [world.address("server-a", version) for version in (4, 6)]
    with world.manifest("only-client", policy_manifest("only-client", principal("client"))):
        for address in addresses:
            until(lambda address=address: not world.is_served("outsider-b", address), "policy is in force")
        annotate("true", expected=True)
        assert all(world.is_served("outsider-b", address) for address in addresses)
        assert all(world.is_served("client-b", address) for address in addresses)
        assert not any(world.is_served("server-b", address) for address in addresses), "HBONE is captured"
        with world.talk("outsider-b", addresses[0]) as talk:
            talk.say()
            world.kill_all("node-a")
            talk.say()
            assert is_open(world, "outsider-b", "server-a")
            assert not is_open(world, "client-b", "server-a"), "HBONE is captured"
            assert not is_open(world, "server-a", "outsider-b"), "and so is what it opens"
            world.mesh.start_agent(world.node("node-a"))
            until(lambda: bypassed(world) == {"server-a"}, "the next agent goes on so")
            until(lambda: world.is_served("client-b", addresses[0]), "HBONE is served again")
            talk.say()
            annotate(None, expected=False)
            # It waits for an answer and sends nothing: nobody but the pod's own socket can tell it.
            until(talk.is_ended, "one past the proxy is reset although it says nothing")
        assert not any(world.is_served("outsider-b", address) for address in addresses)
        assert world.is_served("client-b", addresses[0])


def bypassed(world: World) -> set[str]:
    """The pods of node-a into which plaintext goes past the proxy."""
    try:
        rows = world.status("node-a")["pods"]
    except AgentAbsent:
        return set()
    return {row["pod"].removeprefix("demo/") for row in rows if row["bypass_inbound"]}


@pytest.mark.usefixtures("labelled")
def test_what_the_labels_want_a_person_cannot_let_go(world: World) -> None:
    with pytest.raises(AgentRefused, match=r"stays captured: Kubernetes wants it .*kubectl label pod"):
        world.mesh.unenroll(world.pod("client-a"))


@pytest.mark.usefixtures("labelled")
def test_an_outage_of_the_api_is_named_and_lets_nobody_go(world: World, cluster: LabCluster) -> None:
    cluster.api.stop()
    try:
        until(lambda: "nobody listens" in " ".join(world.status("node-a")["reasons"]), "it is named")
        world.kill_control("node-a")
        world.mesh.start_agent(world.node("node-a"))
        until(lambda: {"client-a", "server-a"} <= served(world, "node-a"), "they are served again")
        assert world.is_served("client-a", world.address("server-b"))
    finally:
        cluster.start()
    until(lambda: world.status("node-a")["state"] == "READY", "it is heard again", BACKOFF.cap_s * 3)
    assert is_served(world, "client-a", "server-a", "client-b", "server-b")


@pytest.mark.usefixtures("labelled")
def test_a_restart_with_damaged_notes_knows_the_pods_by_uid(world: World, cluster: LabCluster) -> None:
    gone = cluster.uids["client-a"]
    world.kill_all("node-a")
    notes = world.mesh.run_dir("node-a") / "wishes.json"
    notes.write_bytes(notes.read_bytes()[:-9])
    cluster.api.delete("pods", "client-a", "demo")
    world.mesh.start_agent(world.node("node-a"))
    until(lambda: served(world, "node-a") == {"server-a"}, "the other one is served")
    assert not is_open(world, "client-a", "outsider-b"), (
        "one that is gone is closed while its interface is there"
    )
    aside = notes.with_suffix(".damaged")
    assert str(aside) in " ".join(world.status("node-a")["reasons"])
    aside.unlink()
    again = cluster.add(world.pod("client-a"))
    assert again != gone
    until(lambda: served(world, "node-a") == {"client-a", "server-a"}, "the new one is served")
    assert world.is_served("client-a", world.address("server-b"))


@pytest.mark.usefixtures("labelled")
def test_one_that_has_ended_is_closed(world: World, cluster: LabCluster) -> None:
    cluster.api.change("pods", "client-a", "demo", status={"phase": "Succeeded", "podIPs": []})  # type: ignore[dict-item]
    until(lambda: served(world, "node-a") == {"server-a"}, "it is served no longer")
    until(lambda: cluster.says("client-a") is None, "the API is told")
    assert not is_open(world, "client-a", "outsider-b")
    addresses = [{"ip": str(address)} for address in world.pod("client-a").addresses]
    status: kube.Raw = {"phase": "Running", "podIPs": addresses}
    cluster.api.change("pods", "client-a", "demo", status=status)
    until(lambda: served(world, "node-a") == {"client-a", "server-a"}, "it is served again")


@pytest.mark.usefixtures("labelled")
def test_a_pod_that_cannot_be_found_is_an_event_with_a_remedy(world: World, cluster: LabCluster) -> None:
    cluster.api.create(kube.pod("spare-a", node="node-a", address="10.77.1.99", uid=str(uuid.uuid4())))
    until(lambda: "demo/spare-a" in " ".join(world.status("node-a")["reasons"]), "it is missed")
    until(lambda: cluster.api.all("events"), "an Event")
    (event,) = cluster.api.all("events")
    assert event["involvedObject"]["name"] == "spare-a" and event["type"] == "Warning"
    assert "is not found on this node" in event["message"]
    cluster.api.delete("pods", "spare-a", "demo")
    until(lambda: world.status("node-a")["state"] == "READY", "it is forgotten")


@pytest.mark.usefixtures("labelled")
def test_a_pod_without_a_process_is_found_by_its_address_where_no_other_pod_is(
    world: World, cluster: LabCluster
) -> None:
    pod = world.pod("spare-a")
    raw = kube.pod("spare-a", node="node-a", uid=str(uuid.uuid4()), serviceAccountName="spare")
    raw["status"]["podIPs"] = [{"ip": str(address)} for address in pod.addresses]
    cluster.api.create(raw)
    until(lambda: "spare-a" in served(world, "node-a"), "it is served")
    cluster.api.delete("pods", "spare-a", "demo")
    until(lambda: "spare-a" not in served(world, "node-a"), "it is served no longer")
    assert not is_open(world, "spare-a", "outsider-b"), "its interface is still there"
    world.mesh.unenroll(pod)
    assert is_open(world, "spare-a", "outsider-b"), "a person may let go what nobody wants"


@pytest.mark.usefixtures("labelled")
def test_whatever_becomes_of_an_add_the_pod_is_closed_and_nothing_stays_of_it(
    world: World, cluster: LabCluster
) -> None:
    agent = world.process("agent-node-a")
    until(lambda: "client-a" in served(world, "node-a"), "the others are served")
    files: list[int] = []

    def let_go(plugin: Plugin, *, is_captured: bool = True) -> None:
        """The sandbox goes, twice over, and its pod; then nothing is noted of it."""
        cluster.api.delete("pods", "spare-a", "demo")
        assert plugin.call("DEL").returncode == plugin.call("DEL").returncode == 0
        until(lambda: "spare-a" not in served(world, "node-a"), "it is gone")
        if is_captured:  # its interface, which is still there, and closed
            world.mesh.unenroll(world.pod("spare-a"))
        for name in ("owners", "pods", "ifaces", "captures"):
            until(lambda name=name: len(json.loads(maps(world, name))) == rows[name], f"{name} is as before")
        files.append(agent.num_fds())

    rows = {name: len(json.loads(maps(world, name))) for name in ("owners", "pods", "ifaces", "captures")}

    # As it should be, so that what opens once is open.
    plugin = Plugin(world, announced(cluster))
    assert plugin.call("ADD").returncode == 0
    let_go(plugin)

    # The agent stands still between connect and answer: the sandbox fails in time, and so does its next.
    plugin = Plugin(world, announced(cluster))
    agent.suspend()
    try:
        late = plugin.call("ADD", timeoutSeconds=0.5)
        cut = plugin.start("ADD")
        until(lambda: bool(psutil.Process(cut.pid).net_connections("unix")), "it asks")
        cut.kill()
        ended(cut)
    finally:
        agent.resume()
    said = json.loads(late.stdout)
    assert said["code"] == 11 and "does not answer on" in said["msg"] and "timed out" in said["msg"]
    until(lambda: world.status("node-a")["state"] == "READY", "it goes on")
    assert plugin.call("ADD").returncode == 0, "the kubelet tries again"
    let_go(plugin)

    # Two at once, as a runtime that has lost count would do it.
    plugin = Plugin(world, announced(cluster))
    both = [ended(process) for process in [plugin.start("ADD"), plugin.start("ADD")]]
    assert [each.returncode for each in both] == [0, 0]
    assert not is_open(world, "spare-a", "outsider-b") or "spare-a" in served(world, "node-a")
    let_go(plugin)

    # Its namespace is gone before the agent looks.
    plugin = Plugin(world, announced(cluster), "/run/netns/gone")
    refused = json.loads(plugin.call("ADD", timeoutSeconds=30).stdout)
    assert refused["code"] == 11
    assert "pod demo/spare-a cannot be captured: " in refused["msg"] and "/run/netns/gone" in refused["msg"]
    let_go(plugin, is_captured=False)
    until(lambda: agent.num_fds() <= files[0], f"no file stays open: {files}")
