"""The lab in real namespaces: traffic on every path, and nothing left behind whatever happens."""

from __future__ import annotations

import datetime
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.lab import firewall, probes
from agent.lab.blueprint import Blueprint, LabError, generate, parse
from agent.lab.capture import LinkCapture
from agent.lab.firewall import Denied
from agent.lab.process import began
from agent.lab.topology import Topology
from redirect import netns

pytestmark = pytest.mark.kernel

NAME = f"labf{os.getpid()}"
PORT, NODE_PORT = 8080, 30080
VIP = {4: "10.96.77.1", 6: "fd00:10:96:77::1"}
PROBES = (sys.executable, "-m", "agent.lab.probes")
BLUEPRINT = parse(generate(2))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    topology = Topology(NAME, tmp_path_factory.mktemp("run"))
    try:
        topology.up(BLUEPRINT)
        for key, pod in topology.pods.items():
            topology.processes.start_ready(pod.name, pod.netns, [*PROBES, "marker", "--port", str(PORT)])
            assert key == pod.key
        yield topology
    finally:
        topology.down()


def spot(lab: Topology, name: str) -> Path:
    return lab.nodes[name].netns if name.startswith("node-") else lab.pods[f"lab/{name}"].netns


def ask(lab: Topology, client: str, host: str, port: int = PORT, timeout_s: float = 5) -> dict[str, str]:
    with netns.entered(spot(lab, client)):
        return probes.request(host, port, timeout_s, f"from {client}")


def host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def own_address(lab: Topology, client: str, family: int) -> str:
    if client.startswith("node-"):
        return next(str(ip) for ip in lab.nodes[client].addresses if ip.version == family)
    return str(lab.pods[f"lab/{client}"].address(family))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("client", "server"),
    [("a1", "b1"), ("b2", "a1"), ("a1", "a2"), ("a1", "a1"), ("node-a", "a1"), ("node-a", "b1")],
    ids=[
        "cross node",
        "cross node back",
        "same node",
        "itself",
        "host to pod",
        "host to pod of the other node",
    ],
)
def test_pods_are_reached_and_see_the_clients_address(
    lab: Topology, client: str, server: str, family: int
) -> None:
    address = str(lab.pods[f"lab/{server}"].address(family))
    assert host_of(ask(lab, client, address)["client"]) == own_address(lab, client, family)


@pytest.mark.parametrize("family", [4, 6])
def test_a_vip_reaches_every_endpoint_and_keeps_the_clients_address(lab: Topology, family: int) -> None:
    answers = [ask(lab, "a1", VIP[family]) for _ in range(60)]
    servers = {host_of(answer["server"]) for answer in answers}
    assert servers == {own_address(lab, name, family) for name in ("a1", "a2", "b1", "b2")}
    for answer in answers:
        is_itself = host_of(answer["server"]) == own_address(lab, "a1", family)
        # A connection to oneself is masqueraded, as kube-proxy does: the pod would drop its own address.
        assert (host_of(answer["client"]) == own_address(lab, "a1", family)) is not is_itself


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [PORT, NODE_PORT])
def test_a_host_process_reaches_vip_and_node_port(lab: Topology, family: int, port: int) -> None:
    target = VIP[family] if port == PORT else own_address(lab, "node-a", family)
    seen = {host_of(ask(lab, "node-a", target, port)["client"]) for _ in range(20)}
    assert own_address(lab, "node-a", family) in seen


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("client", "node", "is_kept"),
    [("a1", "node-a", True), ("a1", "node-b", False), ("node-b", "node-a", False)],
    ids=["pod, own node", "pod, other node", "from outside"],
)
def test_node_ports_keep_the_address_of_the_nodes_own_pods_only(
    lab: Topology, client: str, node: str, is_kept: bool, family: int
) -> None:
    answers = [ask(lab, client, own_address(lab, node, family), NODE_PORT) for _ in range(10)]
    kept = {
        host_of(answer["client"]) == own_address(lab, client, family)
        for answer in answers
        if host_of(answer["server"]) != own_address(lab, client, family)
    }
    assert kept == {is_kept}


@pytest.mark.parametrize("family", [4, 6])
def test_a_forward_drop_holds_until_it_is_taken_back(lab: Topology, family: int) -> None:
    one, other = lab.pods["lab/a1"].address(family), lab.pods["lab/a2"].address(family)
    try:
        lab.deny_forward(Denied(one, other, PORT))
        with pytest.raises(TimeoutError):
            ask(lab, "a1", str(other), timeout_s=0.3)
        ask(lab, "a2", str(one))
    finally:
        lab.allow_forward()
    ask(lab, "a1", str(other))


def test_bulk_bytes_arrive_both_ways_with_half_close(lab: Topology) -> None:
    pod = lab.pods["lab/b1"]
    lab.processes.start_ready("bulk", pod.netns, [*PROBES, "bulk", "--port", "8081"])
    with netns.entered(spot(lab, "a1")):
        done = probes.exchange(str(pod.address(6)), 8081, 10, sent=3_000_001, received=2_000_003)
    assert (done["sent"], done["received"]) == (3_000_001, 2_000_003)


def test_a_server_that_speaks_first_is_heard(lab: Topology) -> None:
    pod = lab.pods["lab/b1"]
    lab.processes.start_ready("banner", pod.netns, [*PROBES, "banner", "--port", "8082"])
    done = subprocess_in(lab, "a1", "first_words", str(pod.address(4)), "8082")
    assert json.loads(done.stdout) == {"banner": "220 lab.example ready\r\n"}
    assert done.returncode == 0


def subprocess_in(lab: Topology, where: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    with netns.entered(spot(lab, where)):
        return subprocess.run([*PROBES, *arguments], capture_output=True, text=True, timeout=30)


def test_a_probe_that_fails_says_so(lab: Topology) -> None:
    done = subprocess_in(lab, "a1", "check", str(lab.pods["lab/b1"].address(4)), "9")
    assert done.returncode == 1
    assert json.loads(done.stdout)["kind"] == "ConnectionRefusedError"


def test_the_capture_reads_the_marker_of_a_plain_request(lab: Topology) -> None:
    with LinkCapture(lab.nodes["node-a"].netns, b"from a1") as capture:
        ask(lab, "a1", str(lab.pods["lab/b1"].address(6)))
    report = capture.report()
    # Once in the request, once in the answer.
    assert (report.marker_seen, report.tls_records, report.dropped) == (2, 0, 0)


def test_the_capture_sees_only_records_of_real_tls(lab: Topology, tmp_path: Path) -> None:
    server, client = tls_contexts(tmp_path)
    pod = lab.pods["lab/b1"]
    with netns.entered(pod.netns):
        listener = probes.socket.create_server(
            ("::", 15008), family=probes.socket.AF_INET6, dualstack_ipv6=True
        )

    def serve() -> None:
        connection, _ = listener.accept()
        with server.wrap_socket(connection, server_side=True) as secured:
            secured.sendall(secured.recv(100))

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, LinkCapture(lab.nodes["node-b"].netns, b"secret-marker") as capture:
        with netns.entered(spot(lab, "a1")):
            plain = probes.socket.create_connection((str(pod.address(4)), 15008), 5)
        with client.wrap_socket(plain) as secured:
            secured.sendall(b"secret-marker")
            assert secured.recv(100) == b"secret-marker"
        thread.join()
    report = capture.report()
    assert (report.other_segments, report.marker_seen, report.unfinished) == (0, 0, 0)
    assert report.tls_records >= 6


def tls_contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem += key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "lab.pem").write_bytes(pem)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(directory / "lab.pem")
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return server, client


# What is left behind


def machine() -> dict[str, set[str]]:
    """What a lab could leave on this machine, by its name or in the host's own namespace."""
    links = {entry["ifname"] for entry in json.loads(run("ip", "-j", "link"))}
    tables = set(run("nft", "list", "tables").splitlines())
    spaces = {path.name for path in netns.RUN_DIR.glob("lab*")} if netns.RUN_DIR.exists() else set()
    return {"links": links, "tables": tables, "namespaces": spaces}


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ours(state: dict[str, set[str]], name: str) -> set[str]:
    return {thing for things in state.values() for thing in things if name in thing}


def test_down_removes_everything_and_a_second_lab_stands_beside(lab: Topology, tmp_path: Path) -> None:
    before = machine()
    second = Topology(f"{NAME}two", tmp_path)
    try:
        second.up(BLUEPRINT)
        pod = second.pods["lab/b1"]
        server = second.processes.start_ready("marker", pod.netns, [*PROBES, "marker", "--port", str(PORT)])
        with netns.entered(pod.netns):
            # Not started by the lab, but living in it: a worker that outlived its parent looks like this.
            orphan = subprocess.Popen(["sleep", "1000"])
        with netns.entered(second.pods["lab/a1"].netns):
            probes.request(str(pod.address(4)), PORT, 5, "second")
        assert len(ours(machine(), second.name)) == 6
    finally:
        second.down()
    orphan.wait(0)
    assert not psutil.pid_exists(server.pid)
    after = machine()
    assert ours(after, second.name) == set()
    assert after["tables"] == before["tables"]
    assert not list(tmp_path.iterdir())
    second.down()
    ask(lab, "a1", str(lab.pods["lab/b1"].address(4)))


def test_a_lab_that_was_killed_while_it_was_built_is_removed(tmp_path: Path) -> None:
    name = f"{NAME}crash"
    script = f"""
        import os, signal
        from pathlib import Path
        from agent.lab import wiring
        from agent.lab.blueprint import generate, parse
        from agent.lab.topology import Topology
        attach, calls = wiring.attach_pod, []
        def killed(*arguments):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            attach(*arguments)
        wiring.attach_pod = killed
        Topology({name!r}, Path({str(tmp_path)!r})).up(parse(generate(2)))
    """
    try:
        killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert len(ours(machine(), name)) == 5
        with pytest.raises(LabError, match="is up already, or an earlier one ended badly"):
            Topology(name, tmp_path).up(BLUEPRINT)
        with pytest.raises(LabError, match="is not up"):
            Topology.load(name, tmp_path)
    finally:
        Topology(name, tmp_path).down()
    assert ours(machine(), name) == set()


def test_a_lab_that_cannot_be_finished_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "services_ruleset", lambda *_: "no such command\n")
    lab = Topology(f"{NAME}bad", tmp_path)
    with pytest.raises(LabError, match=r"nft refused the rules of .*syntax error"):
        lab.up(BLUEPRINT)
    assert ours(machine(), lab.name) == set()
    assert not list(tmp_path.iterdir())


def test_a_namespace_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    lab = Topology(f"{NAME}own", tmp_path)
    foreign = f"{lab.name}-b1"
    netns.create(foreign)
    try:
        with pytest.raises(LabError, match=f"{foreign} exists and is not of this lab"):
            lab.up(BLUEPRINT)
        lab.down()
        assert ours(machine(), lab.name) == {foreign}
    finally:
        netns.remove(foreign)


def test_a_lab_that_is_up_can_be_loaded_by_another_command(lab: Topology) -> None:
    again = Topology.load(lab.name, lab.journal.directory.parent)
    assert (again.nodes, again.pods) == (lab.nodes, lab.pods)


def test_a_process_that_took_over_a_pid_is_not_ended(tmp_path: Path) -> None:
    lab = Topology(f"{NAME}pid", tmp_path)
    lab.journal.claim()
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        lab.journal.note_process("gone", stranger.pid, (began(stranger.pid) or 0) - 60)
        lab.down()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_that_does_not_get_ready_is_ended_and_quoted(lab: Topology) -> None:
    argv = [sys.executable, "-c", "import sys; sys.stderr.write('port taken\\n'); print('sorry')"]
    with pytest.raises(LabError, match=r"broken did not get ready in 10 s: port taken"):
        lab.processes.start_ready("broken", spot(lab, "a1"), argv)


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "../x", "x" * 32, "-x"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        Topology(name)


def test_pods_that_would_share_a_namespace_are_named(tmp_path: Path) -> None:
    pods = parse(generate(1)).pods
    twin = Blueprint((pods[0], *parse(generate(1, namespace="other")).pods[:1]))
    with pytest.raises(LabError, match="pod other/a1 and lab/a1 would share namespace"):
        Topology(f"{NAME}twin", tmp_path).up(twin)
