"""Pods that a containerd makes with real CNI plugins and ztun-cni behind them: captured before their first packet.

The API is the fake one and control plane, agent, runtime, plugins and containers are real, on a machine of namespaces.
Whatever a captured pod says to somebody outside of the mesh is refused (`--unknown-destination refuse`), so that a
packet of it that arrives there has come by ztun.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from redirect.netns import entered
from tests.cluster.images import STAY
from tests.support import containerd, kube, kube_node
from tests.support.containerd import Containerd, Sandbox, SandboxFailed
from tests.support.kube_node import EXCLUDED, MODE, KubeNode

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        bool(containerd.missing()), reason=f"apt-get install {containerd.missing()} (scripts/setup dev does)"
    ),
]
IPAM = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.11"}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}
BRIDGE = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": IPAM}
PTP = {"type": "ptp", "ipam": IPAM}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
RATE = {"ingressRate": 20_000_000, "ingressBurst": 400_000, "egressRate": 20_000_000, "egressBurst": 400_000}
BANDWIDTH = {"type": "bandwidth", **RATE}
FIREWALL = {"type": "firewall", "backend": "iptables"}
RECORDER = {"type": containerd.RECORDER}
OUTSIDE, PORT = "192.168.77.9", 7777
CALL = f"while :; do nc -w 1 {OUTSIDE} {PORT} </dev/null >/dev/null 2>&1; usleep 50000; done"
"""What the sandbox of each pod does from its first moment on, before anybody has heard of its address."""
ANSWER = "while :; do echo hello | nc -l -p 8080; done"
ETH_P_IP = 0x0800
SYN, ACK = 0x02, 0x10


def conflist(*plugins: dict[str, Any]) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeNode]:
    directory = tmp_path_factory.mktemp("containerd")
    with kube_node.running(
        directory, conflist(BRIDGE, PORTMAP, RECORDER), unknown_destination="refuse"
    ) as made:
        made.api.create(kube.namespace("open"))
        made.machine.run("ip", "netns", "add", "outside")
        made.machine.run("ip", "link", "add", "uplink", "type", "veth", "peer", "eth0", "netns", "outside")
        made.machine.run("ip", "addr", "add", "192.168.77.1/24", "dev", "uplink")
        made.machine.run("ip", "link", "set", "uplink", "up")
        for words in (
            f"addr add {OUTSIDE}/24 dev eth0",
            "link set eth0 up",
            "route add default via 192.168.77.1",
        ):
            made.machine.run("ip", "-n", "outside", *words.split())
        yield made


@pytest.fixture(scope="module")
def runtime(node: KubeNode) -> Iterator[Containerd]:
    made = Containerd(node, ("/bin/busybox", "sh", "-c", CALL))
    yield made
    made.close()


class Wire:
    """Everything that arrives outside. `syns`: how many SYNs came from an address."""

    def __init__(self, node: KubeNode) -> None:
        with entered(node.inside("/run/netns/outside")):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self._socket.setblocking(False)
        self._syns: list[str] = []

    def syns(self, address: str) -> int:
        with suppress(BlockingIOError):
            while True:
                packet = self._socket.recv(2048)
                at = (packet[0] & 15) * 4
                if packet[9] == socket.IPPROTO_TCP and packet[at + 13] & (SYN | ACK) == SYN:
                    (port,) = struct.unpack_from("!H", packet, at + 2)
                    self._syns += [socket.inet_ntoa(packet[12:16])] * (port == PORT)
        return self._syns.count(address)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def wire(node: KubeNode) -> Iterator[Wire]:
    made = Wire(node)
    yield made
    made.close()


class Kubelet:
    """Makes pods as a kubelet does, and takes all of them away again."""

    def __init__(self, node: KubeNode, runtime: Containerd) -> None:
        self._node, self._runtime = node, runtime
        self._pods: list[tuple[str, str, Sandbox | None]] = []
        self.uids: dict[str, str] = {}

    def announce(self, name: str, namespace: str = "demo") -> str:
        uid = self.uids[name] = self._node.announce(name, namespace, account=name)
        self._pods.append((name, namespace, None))
        return uid

    def make(self, name: str, namespace: str = "demo", group: str = "", *, is_told: bool = True) -> Sandbox:
        """`is_told`: the API hears of its address. Raises SandboxFailed; then the pod is there still: try again."""
        uid = self.uids.get(name) or self.announce(name, namespace)
        sandbox = self._runtime.run(name, uid, namespace, group)
        self._pods.append((name, namespace, sandbox))
        if is_told:
            self._node.has_started(name, sandbox.address, namespace)
        return sandbox

    def remove(self, name: str) -> None:
        """With everything that a kubelet does, and some of it twice."""
        mine = [row for row in self._pods if row[0] == name]
        self._pods = [row for row in self._pods if row[0] != name]
        for _, _, sandbox in mine:
            if sandbox is not None:
                self._runtime.stop(sandbox)
                self._runtime.remove(sandbox)
        with suppress(KeyError):
            self._node.api.delete("pods", name, mine[0][1])
        self.uids.pop(name, None)

    def remove_all(self) -> None:
        for name in {name for name, _, _ in self._pods}:
            self.remove(name)


@pytest.fixture
def kubelet(node: KubeNode, runtime: Containerd) -> Iterator[Kubelet]:
    made = Kubelet(node, runtime)
    yield made
    made.remove_all()
    node.until(lambda: not node.served(), "nobody is served")


def is_answered(node: KubeNode, runtime: Containerd, client: str, server: Sandbox) -> bool:
    code, said = runtime.execute(
        client, "/bin/busybox", "sh", "-c", f"nc -w 2 {server.address} 8080 </dev/null"
    )
    return code == 0 and said.strip() == "hello"


def is_logged(node: KubeNode, client: Sandbox, server: Sandbox) -> bool:
    wanted = 'direction="inbound"', f"{client.address}:", f"{server.address}:8080", "demo/sa/client"
    lines = (node.machine.logs / "agent.log").read_text().splitlines()
    return any(all(each in line for each in wanted) for line in lines)


def test_a_pods_first_packet_is_in_the_mesh(
    node: KubeNode, runtime: Containerd, kubelet: Kubelet, wire: Wire
) -> None:
    client = kubelet.make("client", is_told=False)
    bare = kubelet.make("bare", "open")
    node.until(lambda: wire.syns(bare.address) > 1, "one outside of the mesh is heard, which began later")
    node.has_started("client", client.address)
    caller = runtime.run_container(client, *STAY)
    server = kubelet.make("server")
    runtime.run_container(server, "/bin/busybox", "sh", "-c", ANSWER)
    node.until(lambda: node.served() == {"demo/client", "demo/server"}, "both are served")
    node.until(lambda: is_answered(node, runtime, caller, server), "one in the mesh answers")
    node.until(lambda: is_logged(node, client, server), "it knows its client by a certificate")
    assert node.says("client") == node.says("server") == "enabled"
    assert wire.syns(client.address) == 0, "it has called from its first moment on"
    assert wire.syns(bare.address) > 1


def test_an_excluded_namespace_passes(
    node: KubeNode, runtime: Containerd, kubelet: Kubelet, wire: Wire
) -> None:
    node.api.change("namespaces", EXCLUDED, metadata={"labels": {MODE: "ambient"}})  # type: ignore[dict-item]
    pod = kubelet.make("dns", EXCLUDED)
    node.until(lambda: wire.syns(pod.address), "it is in clear")
    assert not node.served()


def test_a_runtime_deletes_twice_and_nothing_is_left(
    node: KubeNode, runtime: Containerd, kubelet: Kubelet
) -> None:
    pod = kubelet.make("client")
    node.until(lambda: node.served() == {"demo/client"}, "it is served")
    uid = kubelet.uids["client"]
    kubelet.remove("client")
    assert runtime.recorded(pod) == [("ADD", True, True), ("DEL", True, True), ("DEL", False, False)]
    node.until(lambda: not maps(node, "owners"), "nothing is noted of it")
    assert not maps(node, "pods") and not maps(node, "ifaces")
    errors = node.inside("/var/log/ztun-cni.log")
    assert not errors.exists() or uid not in errors.read_text()


def maps(node: KubeNode, name: str) -> list[dict[str, Any]]:
    done = node.machine.run(*kube_node.ZTUN, "maps", "dump", name, "-o", "json")
    found = json.loads(done)
    rows: list[dict[str, Any]] = found if isinstance(found, list) else found[name]
    return rows


def test_without_an_agent_a_sandbox_fails_and_says_what_to_do(
    node: KubeNode, runtime: Containerd, kubelet: Kubelet, wire: Wire
) -> None:
    os.kill(node.agent_pid(), signal.SIGKILL)
    kubelet.announce("client")
    with pytest.raises(SandboxFailed) as failed:
        kubelet.make("client")
    words = str(failed.value)
    assert "ztun-cni" in words and "the ztun agent does not answer on /run/ztun/ztun/agent.sock" in words
    assert "is the ztun agent of this node running? `ztun status` on the node says" in words
    excluded = kubelet.make("dns", EXCLUDED)
    node.until(lambda: wire.syns(excluded.address), "it starts without an agent")
    assert kubelet.uids["client"] in node.inside("/var/log/ztun-cni.log").read_text()
    node.start_agent()
    kubelet.make("client")
    node.until(lambda: node.served() == {"demo/client"}, "the same pod is served, now that there is one")


@pytest.mark.parametrize("driver", ["cgroupfs", "systemd"])
def test_running_pods_are_found_by_their_control_groups(
    node: KubeNode, runtime: Containerd, kubelet: Kubelet, driver: str
) -> None:
    uid = kubelet.announce("late", "open")
    slices = (
        f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid.replace('-', '_')}.slice/x"
    )
    pod = kubelet.make("late", "open", slices if driver == "systemd" else "")
    runtime.run_container(pod, *STAY)
    kubelet.make("neighbour", "open")
    assert not node.served()
    node.api.change("pods", "late", "open", metadata={"labels": {MODE: "ambient"}})  # type: ignore[dict-item]
    node.until(
        lambda: node.served() == {"open/late"}, "the one with the label is found, the other left alone"
    )
    (row,) = [row for row in maps(node, "pods") if row.get("address") == pod.address]
    assert row
    (owner,) = maps(node, "owners")
    assert owner["owner"] == f"open/late {uid}"


def test_an_agent_that_starts_without_its_notes_finds_the_pods_by_uid(
    node: KubeNode, runtime: Containerd, kubelet: Kubelet, wire: Wire
) -> None:
    client, server = kubelet.make("client"), kubelet.make("server")
    caller = runtime.run_container(client, *STAY)
    runtime.run_container(server, "/bin/busybox", "sh", "-c", ANSWER)
    node.until(lambda: node.served() == {"demo/client", "demo/server"}, "both are served")
    os.kill(node.agent_pid(), signal.SIGKILL)
    node.inside("/run/ztun/ztun/wishes.json").unlink()
    node.start_agent()
    node.until(lambda: node.served() == {"demo/client", "demo/server"}, "both are served again")
    node.until(lambda: is_answered(node, runtime, caller, server), "and talk to each other")
    assert sorted(row["owner"] for row in maps(node, "owners")) == sorted(
        f"demo/{name} {uid}" for name, uid in kubelet.uids.items()
    )
    assert wire.syns(client.address) == 0


@pytest.fixture(
    params=[containerd.PLUGINS, pytest.param(containerd.NEWEST, marks=pytest.mark.long)],
    ids=["1.1.1", "newest"],
)
def plugins(request: pytest.FixtureRequest, node: KubeNode) -> Iterator[None]:
    """Those of Debian, or the newest ones, until the end of a test."""
    chosen: Path = request.param
    if not (chosen / "bridge").exists():
        pytest.skip(f"no plugins at {chosen}: scripts/cni-build makes them")
    node.machine.run("sh", "-c", f"cp {chosen}/* /opt/cni/bin/")
    yield
    node.machine.run("sh", "-c", f"cp {containerd.PLUGINS}/* /opt/cni/bin/")


@pytest.mark.parametrize(
    ("conf", "policy"),
    [
        (conflist(PTP, PORTMAP, BANDWIDTH), "ACCEPT"),
        pytest.param(conflist(PTP, FIREWALL), "DROP", marks=pytest.mark.long),
        (conflist({**BRIDGE, "hairpinMode": True, "macspoofchk": True}, PORTMAP, FIREWALL), "DROP"),
    ],
    ids=["ptp-portmap-bandwidth", "ptp-firewall", "bridge-macspoofchk-firewall"],
)
def test_another_cni_may_write_its_configuration_anew(
    node: KubeNode,
    runtime: Containerd,
    kubelet: Kubelet,
    wire: Wire,
    plugins: None,
    conf: str,
    policy: str,
) -> None:
    """Routed pods with a limit of their bandwidth; pods that reach others only by what the firewall plugin allows."""
    path = "/etc/cni/net.d/10-pods.conflist"
    before = node.inside(path).read_text()
    last = json.loads(conf)["plugins"][-1]["type"]
    node.machine.write(path, conf)
    node.machine.run("iptables", "-P", "FORWARD", policy)
    try:
        node.until(lambda: "ztun-cni" in node.inside(path).read_text(), "it is chained again")
        node.until(lambda: last in runtime.network(), "the runtime has read it")
        client, server, bare = kubelet.make("client"), kubelet.make("server"), kubelet.make("bare", "open")
        caller = runtime.run_container(client, *STAY)
        runtime.run_container(server, "/bin/busybox", "sh", "-c", ANSWER)
        node.until(lambda: node.served() == {"demo/client", "demo/server"}, "both are served")
        node.until(lambda: is_answered(node, runtime, caller, server), "and talk to each other")
        node.until(lambda: is_logged(node, client, server), "by the mesh")
        node.until(lambda: wire.syns(bare.address) > 1, "one outside of it is let through")
        assert wire.syns(client.address) == 0
    finally:
        kubelet.remove_all()
        node.machine.run("iptables", "-P", "FORWARD", "ACCEPT")
        node.machine.write(path, before)
        node.until(lambda: last not in runtime.network(), "the runtime has read what was there before")
