"""The workers' processes in a running mesh: their rights, how one generation follows another, and what they count."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, derive_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.lab.agents import ZTUN, LabMesh
from agent.memory_order import BETWEEN, place_of
from agent.model.listener import HBONE
from agent.privileges import CAP_NET_BIND_SERVICE, CAP_NET_RAW, keep_only
from redirect import netns
from redirect.errors import InstanceInUse
from redirect.reconcile import Redirection
from redirect.side import sides_of
from tests.support.keyhunt import key_of, where
from tests.support.labmesh import PORT, World, policy_manifest, principal, running
from tests.support.labtraffic import until, wait_gone
from tests.support.ongoing import New
from tests.support.tasks import Task, tasks

pytestmark = pytest.mark.kernel

RESTART_PATIENCE_S = 60.0
libc = ctypes.CDLL(None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Whoever was accepted has as long as a busy machine may take; a drain is over when nothing is left."""
    with running(
        "w", tmp_path_factory.mktemp("workers"), flags={"drain-deadline-s": f"{RESTART_PATIENCE_S:g}"}
    ) as made:
        yield made


def test_each_thread_of_a_worker_has_the_rights_that_the_documents_give_it(world: World) -> None:
    log = world.log("node-a")
    world.ask("client-a", world.address("server-b"))
    log.line("connection complete")
    sides = {netns.inode(side.netns) for side in sides_of(world.mesh.instance("node-a"))}
    writers: list[Task] = []
    for pid in world.workers("node-a").values():
        threads = tasks(pid)
        makers = [task for task in threads.values() if task.netns in sides]
        assert {task.netns for task in makers} == sides and len(makers) == 2
        assert {task.permitted for task in makers} == {1 << CAP_NET_RAW}
        assert threads[pid].permitted == 1 << CAP_NET_BIND_SERVICE
        writers += [task for tid, task in threads.items() if task not in makers and tid != pid]
        assert all(task.effective == task.permitted for task in threads.values())
        assert all(task.no_new_privileges for task in threads.values())
        # Where memory is short control is ended last, also if it is twice as large.
        assert place_of(pid) - place_of(world.process("agent-node-a").pid) >= BETWEEN
    assert writers and {task.permitted for task in writers} == {0}


def test_another_user_of_the_node_reaches_no_socket_and_no_file_of_the_agent(world: World) -> None:
    """Also where somebody has opened the directory: sockets of pages, of workers, and what is kept beside them."""
    directory = world.mesh.run_dir("node-a")
    kept = [path for path in directory.iterdir() if path.is_file()]
    sockets = [path for path in directory.iterdir() if path.is_socket()]
    assert directory.stat().st_mode & 0o777 == 0o700 and kept and len(sockets) >= 3

    def reached() -> list[Path]:
        # Of this thread alone, and with it go the rights to look past modes (setfsuid(2)).
        libc.setfsgid(65534)
        libc.setfsuid(65534)
        return [path for path in kept if opens(path)] + [path for path in sockets if answers(path)]

    directory.chmod(0o755)
    try:
        with ThreadPoolExecutor(1) as another:
            assert another.submit(reached).result() == []
        assert all(answers(path) for path in sockets), "root is let in"
    finally:
        directory.chmod(0o700)


def opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        return False
    return True


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except PermissionError:
            return False
    return True


@pytest.mark.parametrize("who", ["worker", "control"])
def test_a_process_that_aborts_leaves_no_core_dump(world: World, who: str) -> None:
    """It has keys in its memory, which nobody without CAP_SYS_PTRACE looks into either."""
    pid = world.workers("node-b")[0] if who == "worker" else world.process("agent-node-b").pid
    place = Path(f"/proc/{pid}/cwd").readlink()
    before = set(place.glob("core*"))
    for each in (pid, world.process("control-plane").pid):
        assert resource.prlimit(each, resource.RLIMIT_CORE) == (0, 0)
    with suppress(PermissionError):  # without CAP_SYS_RESOURCE nobody raises it again
        resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if who == "worker":
        assert not is_looked_into(pid)
        with subprocess.Popen(
            ["/usr/bin/sleep", "60"], preexec_fn=partial(keep_only, CAP_NET_BIND_SERVICE)
        ) as other:
            assert is_looked_into(other.pid), "a process of these rights that does not refuse it"
            other.kill()
    os.kill(pid, signal.SIGABRT)
    wait_gone(pid)
    assert set(place.glob("core*")) == before
    if who == "control":
        world.restart("node-b")
    until(lambda: world.workers("node-b").get(0) not in (None, pid), "all workers are there")


def is_looked_into(pid: int) -> bool:
    """Whether root with every right of a worker, and no other, opens its memory."""

    def opens_memory() -> bool:
        keep_only(CAP_NET_BIND_SERVICE)
        return opens(Path(f"/proc/{pid}/mem"))

    with ThreadPoolExecutor(1) as another:
        return another.submit(opens_memory).result()


def test_keys_are_in_memory_alone(world: World, tmp_path: Path) -> None:
    """Those of certificates and of connections: in no file of the node's, in no log that tells much, in no page."""
    server = world.address("server-b")
    post = partial(world.http, "node-b", 15000, method="POST")
    assert post("/logging?level=trace")[0] == 200
    try:
        # Whoever comes now is told of certificates while everything is logged.
        former = world.workers("node-b")
        world.kill(former[0])
        until(lambda: world.workers("node-b").get(0) not in (None, former[0]), "its successor is there")
        assert world.is_served("client-a", server)
        secrets, public = seen_by_a_peer(world, server, tmp_path / "keys.log")
        holders = [world.process("agent-node-b").pid, *world.workers("node-b").values()]
        key = next((found for pid in holders if (found := key_of(public, pid))), None)
        assert key, "its private key is in the memory of those that need it"
        pages = tmp_path / "pages"
        pages.mkdir()
        for port, page in ((15000, "config_dump"), (15020, "metrics")):
            (pages / page).write_text(world.http("node-b", port, f"/{page}")[1])
        for name in ("status", "certificates", "connections"):
            (pages / name).write_text(json.dumps(world.mesh.ask("node-b", "GET", f"/{name}")))
        for pid in holders:
            for name in ("cmdline", "environ"):
                (pages / f"{name}-{pid}").write_bytes(Path(f"/proc/{pid}/{name}").read_bytes())
    finally:
        assert post("/logging?reset")[0] == 200
    places = [
        world.lab.journal.directory,
        world.mesh.manifests.parent,
        pages,
        Path("/dev/shm"),
        Path("/var/log"),
    ]
    assert where([key, *secrets], places) == []
    planted = tmp_path / "key.pem"
    pem = derive_private_key(int.from_bytes(key, "big"), SECP256R1())
    planted.write_bytes(pem.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert where([key, *secrets], [tmp_path]) == [planted, tmp_path / "keys.log"], "it finds what is there"


def seen_by_a_peer(world: World, server: str, keys: Path) -> tuple[list[bytes], EllipticCurvePublicKey]:
    """The secrets of a TLS connection to a pod's tunnel port, and the public key that is shown there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.keylog_filename = str(keys)
    with context.wrap_socket(world.dial("outsider-a", server, HBONE.port)) as sock:
        der = sock.getpeercert(binary_form=True)
    assert der
    public = x509.load_der_x509_certificate(der).public_key()
    assert isinstance(public, EllipticCurvePublicKey)
    lines = [line.split() for line in keys.read_text().splitlines() if "TRAFFIC_SECRET" in line]
    return [bytes.fromhex(secret) for _, _, secret in lines], public


@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_a_restart_refuses_nobody_and_complains_of_nothing(world: World, node: str) -> None:
    """Whoever was accepted is served; whoever comes during the stop waits for the next agent."""
    log = world.log(node)
    with ExitStack() as stack:
        ways = [("client-a", "server-b"), ("client-a", "outsider-b"), ("outsider-a", "server-b")]
        crowd = [
            stack.enter_context(New(world, client, world.address(server), RESTART_PATIENCE_S))
            for client, server in ways
            for _ in range(3)
        ]
        for each in crowd:
            each.goes_on()
        process = world.process(f"agent-{node}")
        process.terminate()
        process.wait(RESTART_PATIENCE_S)
        world.restart(node)
        for each in crowd:
            each.goes_on()
    assert not [failure for each in crowd for failure in each.failures]
    assert not [
        line for line in log.lines() if "Traceback" in line or ("\terror\t" in line and "access" not in line)
    ]


def test_what_workers_of_another_configuration_had_is_judged_and_counted_by_their_successors(
    world: World,
) -> None:
    former = world.workers("node-b")
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        until(lambda: world.metric("node-b", "istio_tcp_sockets_open") == 1, "figures")
        opened = world.metric("node-b", "istio_tcp_connections_opened_total")
        world.kill_control("node-b")
        other = LabMesh(world.lab, {"pod-name": "another", "drain-deadline-s": "90"})
        other.start_agent(world.node("node-b"))
        other.wait_ready("node-b")
        until(lambda: not world.status("node-b")["retiring_workers"], "nothing is left of them")
        live.say()
        assert world.is_served("client-a", world.address("server-b"))
        assert world.mesh.ask("node-b", "GET", "/connections"), "it is listed"
        until(lambda: world.metric("node-b", "istio_tcp_sockets_open") == 1, "it is counted once")
        counted = until(
            lambda: (
                world.metric("node-b", "istio_tcp_connections_opened_total") > opened
                and world.metric("node-b", "istio_tcp_connections_opened_total")
            ),
            "what the workers before had counted, and what is new",
        )
        with world.manifest("policy", policy_manifest("test", principal("nobody"))):
            until(live.is_ended, "a policy of now holds for it")
    for pid in former.values():
        wait_gone(pid)
    assert world.metric("node-b", "istio_tcp_connections_opened_total") >= counted


def test_workers_of_namespaces_that_were_removed_are_ended_instead_of_adopted(world: World) -> None:
    former = world.workers("node-a")
    world.kill_control("node-a")
    instance, run_dir = world.mesh.instance("node-a"), world.mesh.run_dir("node-a")
    with netns.entered(world.node("node-a").netns), closing(Redirection(instance, run_dir)) as redirection:
        redirection.uninstall()
    log = world.log("node-a")
    world.restart("node-a")
    assert set(former.values()).isdisjoint(world.workers("node-a").values())
    for pid in former.values():
        wait_gone(pid)
        log.line(f"(pid {pid}) cannot be used (it lives in namespaces that were removed since): ending it")
    for name in ("client-a", "server-a"):
        world.mesh.enroll(world.pod(name))
    assert world.ask("client-a", world.address("server-b")) == world.address("client-a")
    world.mesh.wait_ready("node-a")


def test_workers_that_cannot_be_found_any_more_are_ended_instead_of_serving_by_old_policy(
    world: World,
) -> None:
    """As with a run directory that systemd removes when the service ends."""
    former = world.workers("node-a")
    for path in world.mesh.run_dir("node-a").glob("worker-*.sock"):
        path.unlink()
    world.kill_control("node-a")
    log = world.log("node-a")
    world.restart("node-a")
    for pid in former.values():
        wait_gone(pid)
        log.line(f"a worker (pid {pid}) has no socket in the run directory: ending it")
    address = world.address("server-b")
    with world.manifest("policy", policy_manifest("test", principal("nobody"))):
        until(lambda: not world.is_served("client-a", address), "the policy is there")
        assert not any(world.is_served("client-a", address) for _ in range(8))
    until(lambda: world.is_served("client-a", address), "it is gone")


def test_a_second_agent_of_an_instance_is_refused_whatever_its_run_directory(
    world: World, tmp_path: Path
) -> None:
    """It would know of no wish, tell the control plane so, and have peers talk to our pods in clear."""
    address = f"{world.node('node-a').addresses[0]}:15012"
    command = [*ZTUN, "agent", "--node", "node-a", "--instance", world.mesh.instance("node-a"), "--run-dir",
               str(tmp_path), "--xds-address", address, "--root-cert", str(world.mesh.state_dir / "root.pem"),
               "--admin-address", "off", "--metrics-address", "off", "--readiness-address", "off"]  # fmt: skip
    with netns.entered(world.node("node-a").netns):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        with pytest.raises(InstanceInUse):
            Redirection(world.mesh.instance("node-a"), tmp_path).uninstall()
    assert done.returncode == 1
    assert "-pod belongs to an agent that runs" in done.stderr.splitlines()[-1]
    assert world.status("node-a")["state"] == "READY"
    assert world.is_served("client-b", world.address("server-a"))


def test_a_worker_that_is_asked_to_end_hands_over_first(world: World) -> None:
    address = world.address("outsider-b")
    first = world.workers("node-a")[0]
    with ExitStack() as stack:
        crowd = [stack.enter_context(New(world, "client-a", address)) for _ in range(3)]
        os.kill(first, signal.SIGTERM)
        until(lambda: world.workers("node-a").get(0, first) != first, "its successor")
        wait_gone(first)
        for each in crowd:
            each.goes_on()
    assert not [failure for each in crowd for failure in each.failures]


def carried(world: World, node: str, side: str, port: int) -> list[set[str]]:
    """The connections to a port that each worker of a node has, in one of its private namespaces."""
    with netns.entered(netns.path_of(f"{world.mesh.instance(node)}-{side}")):
        tables = [Path("/proc/thread-self/net", name).read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    open_ones = {f"socket:[{row[9]}]" for row in rows if row[3] == "01" and row[1].endswith(f":{port:04X}")}
    found = []
    for _, pid in sorted(world.workers(node).items()):
        held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
        found.append(held & open_ones)
    return found


def test_one_busy_pair_of_pods_has_every_worker_at_both_ends(world: World) -> None:
    """Whatever ports its connections have; and each of its HBONE connections another worker of the other node."""
    sides = {"node-a": ("pod", PORT), "node-b": ("net", HBONE.port)}
    with ExitStack() as stack:
        before = {node: carried(world, node, *side) for node, side in sides.items()}
        for _ in range(8):
            # From an account that calls this pod in no other test: no connection of the pool is there yet.
            stack.enter_context(world.talk("server-a", world.address("server-b"))).say()
        after = {node: carried(world, node, *side) for node, side in sides.items()}
    new = {
        node: [len(now - was) for was, now in zip(before[node], after[node], strict=True)] for node in sides
    }
    assert new == {"node-a": [4, 4], "node-b": [1, 1]}
