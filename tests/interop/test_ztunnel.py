"""The real ztunnel in the pod of a node, and an agent of ours at the other end, in both roles.

`ZTUN_INTEROP_ZTUNNEL` names the program. It is run for one pod (`PROXY_MODE=dedicated`), with its state from a file
(`LOCAL_XDS_PATH`) and a certificate of the lab's CA; what its pod sends goes to it by SOCKS5, so that nothing has to be
redirected. The word `envoy` in place of a path puts the real Envoy there: so much shows that the tests are sound,
where there is no ztunnel.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agent.lab.agents import CONTROL_PLANE_PORT
from redirect.netns import entered
from tests.support import envoy
from tests.support.labmesh import World, policy_manifest, principal, running
from tests.support.labtraffic import PATIENCE_S, Talk, until
from tests.support.mesh_certificate import issued

ZTUNNEL, STAND_IN = "ZTUN_INTEROP_ZTUNNEL", "envoy"
THEIRS, THEIR_ID = "spare-a", "spiffe://cluster.local/ns/demo/sa/spare"
CLIENT_ID, SERVER_ID = (f"spiffe://cluster.local/ns/demo/sa/{account}" for account in ("client", "server"))
SOCKS, DENIED = 15080, 9999
BULK_BYTES = 4 << 20
Dial = Callable[[str, int], socket.socket]
pytestmark = [pytest.mark.envoy, pytest.mark.kernel]


@dataclass
class Peer:
    """What stands in the pod `spare-a`; `listener` is the application there, `dial` connects for it by way of that."""

    world: World
    is_ztunnel: bool
    listener: socket.socket
    dial: Dial

    def talk(self, host: str, port: int = 8080) -> Talk:
        return Talk(self.dial(host, port))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    given = os.environ.get(ZTUNNEL)
    if not given:
        pytest.skip(f"{ZTUNNEL} names no ztunnel")
    program = None if given == STAND_IN else Path(given).resolve()
    assert program is None or os.access(program, os.X_OK), f"{ZTUNNEL}={given} is no program"
    directory = tmp_path_factory.mktemp("ztunnel")
    with ExitStack() as stack:
        world = stack.enter_context(running("z", directory))
        with entered(world.pod(THEIRS).netns):
            application = stack.enter_context(socket.create_server(("0.0.0.0", 8080)))
        application.settimeout(PATIENCE_S)
        world.serve(THEIRS, "banner", DENIED)
        tell_that_it_has_hbone(world)
        dial = stack.enter_context(real(world, program, directory) if program else stand_in(world))
        yield Peer(world, program is not None, application, dial)


def tell_that_it_has_hbone(world: World) -> None:
    pods = world.mesh.manifests / "pods.yaml"
    plain = "labels: {app: spare, pod: spare-a}"
    text = pods.read_text()
    assert plain in text
    world.write(pods, text.replace(plain, f'{plain[:-1]}, "networking.istio.io/tunnel": http}}'))
    world.mesh.wait_announced(world.pod(THEIRS))


def state_file(world: World) -> str:
    """What it is to know, in the shape of its own example files."""

    def workload(pod: str, account: str, node: str) -> dict[str, object]:
        return {
            "uid": f"Kubernetes//Pod/demo/{pod}",
            "name": pod,
            "namespace": "demo",
            "serviceAccount": account,
            "workloadIps": [world.address(pod)],
            "protocol": "HBONE",
            "node": node,
            "services": {},
        }

    no_one = {"name": "never", "namespace": "demo", "scope": "Namespace", "action": "Deny", "dryRun": False}
    return yaml.safe_dump(
        {
            "workloads": [
                workload(THEIRS, "spare", "node-a"),
                workload("client-b", "client", "node-b"),
                workload("server-b", "server", "node-b"),
            ],
            "policies": [{**no_one, "rules": [[[{"destinationPorts": [DENIED]}]]]}],
        }
    )


@contextmanager
def real(world: World, program: Path, directory: Path) -> Iterator[Dial]:
    path = directory / "state.yaml"
    path.write_text(state_file(world))
    authority = f"https://{world.node('node-a').addresses[0]}:{CONTROL_PLANE_PORT}"
    process = world.lab.processes.start(
        "ztunnel",
        world.pod(THEIRS).netns,
        [str(program), "proxy", "ztunnel"],
        env={
            "PROXY_MODE": "dedicated",
            "PROXY_WORKLOAD_INFO": f"demo/{THEIRS}/spare",
            "NODE_NAME": "node-a",
            "LOCAL_XDS_PATH": str(path),
            "XDS_ADDRESS": "",
            "CA_ADDRESS": authority,
            "CA_ROOT_CA": str(world.mesh.state_dir / "root.pem"),
            "ALT_CA_HOSTNAME": "istiod.istio-system.svc",
            "AUTH_TOKEN": str(world.mesh.state_dir / "tokens" / "node-a"),
            "UNSTABLE_ENABLE_SOCKS5": "true",
            # Nobody leads answers to another's address back to it here.
            "ENABLE_ORIG_SRC": "false",
            "RUST_LOG": "info",
        },
    )

    def dial(host: str, port: int) -> socket.socket:
        sock = connect(world, "127.0.0.1", SOCKS)
        sock.sendall(b"\5\1\0")
        assert sock.recv(2, socket.MSG_WAITALL) == b"\5\0"
        sock.sendall(b"\5\1\0\1" + socket.inet_aton(host) + struct.pack("!H", port))
        assert sock.recv(10, socket.MSG_WAITALL)[:2] == b"\5\0"
        return sock

    def is_ready() -> bool:
        assert process.poll() is None, world.mesh.log("ztunnel").read_text()[-2000:]
        try:
            connect(world, "127.0.0.1", SOCKS).close()
        except OSError:
            return False
        return True

    until(is_ready, "ztunnel listens")
    yield dial


@contextmanager
def stand_in(world: World) -> Iterator[Dial]:
    certified = issued(world.mesh, THEIR_ID)
    root = SimpleNamespace(root_pem=(world.mesh.state_dir / "root.pem").read_bytes())
    server = world.address("server-b")
    values = {"target": "127.0.0.1", "authority": f"{server}:8080"}
    with ExitStack() as stack:
        with entered(world.pod(THEIRS).netns):
            stack.enter_context(envoy.run(INWARD, root, certified, CLIENT_ID, **values))
            stack.enter_context(
                envoy.run(OUTWARD, root, certified, SERVER_ID, **{**values, "target": server})
            )
        yield lambda *_: connect(world, "127.0.0.1", SOCKS)


def listener(address: str, port: int) -> str:
    return f"""
  - address: {{socket_address: {{address: {address}, port_value: {port}}}}}"""


def cluster(port: int) -> str:
    return f"""
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: $target, port_value: {port}}}}}}}
"""


INWARD = envoy.terminate(listener("0.0.0.0", 15008), cluster(8080), envoy.ADMIN)
OUTWARD = envoy.originate(listener("127.0.0.1", SOCKS), cluster(15008), envoy.ADMIN)


def connect(world: World, host: str, port: int) -> socket.socket:
    return world.dial(THEIRS, host, port)


def test_it_is_the_server_of_a_captured_client(peer: Peer) -> None:
    world, log = peer.world, peer.world.log("node-b")
    data = random.Random(1).randbytes(BULK_BYTES)
    with ours_to_theirs(peer) as (client, server):
        for sender, reader in ((client, server), (server, client)):
            thread = threading.Thread(target=lambda s=sender: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
            thread.start()
            got = b"".join(iter(lambda r=reader: r.recv(65536), b""))
            thread.join()
            assert got == data
    line = log.line('direction="outbound"', f"dst.addr={world.address(THEIRS)}:15008", "connection complete")
    assert f'src.identity="{CLIENT_ID}"' in line and f'dst.identity="{THEIR_ID}"' in line
    assert f"bytes_sent={BULK_BYTES} bytes_recv={BULK_BYTES}" in line


def test_it_is_the_client_of_a_captured_server(peer: Peer) -> None:
    world, log = peer.world, peer.world.log("node-b")
    with peer.talk(world.address("server-b")) as talk:
        assert talk.say()["client"].startswith(f"{world.address(THEIRS)}:"), "the server sees who asks"
        assert talk.say("x" * 100_000)["text"] == "x" * 100_000
    line = log.line('direction="inbound"', f'src.identity="{THEIR_ID}"')
    assert "connection complete" in line and f'dst.identity="{SERVER_ID}"' in line


def test_our_policy_judges_it_and_what_is_open_from_it(peer: Peer) -> None:
    world = peer.world
    server = world.address("server-b")
    with peer.talk(server) as talk:
        talk.say()
        with world.manifest("never", policy_manifest("never", principal("spare"), action="DENY")):
            until(talk.is_ended, "what was open is ended")
            assert not answers(peer, server)
    until(lambda: answers(peer, server), "the policy is gone")


def answers(peer: Peer, host: str) -> bool:
    try:
        with peer.talk(host) as talk:
            talk.say()
    except OSError:
        return False
    return True


def test_its_policy_refuses_our_client_who_is_told_why(peer: Peer) -> None:
    if not peer.is_ztunnel:
        pytest.skip("the Envoy in its place knows no policy")
    world, log = peer.world, peer.world.log("node-b")
    assert not world.is_served("client-b", world.address(THEIRS), DENIED)
    assert "401" in log.line('direction="outbound"', "UPSTREAM_REFUSED")
    with ours_to_theirs(peer):
        pass  # its other port is open


@pytest.mark.parametrize("who", ["client", "server"])
def test_what_one_end_resets_does_not_go_on_at_the_other(peer: Peer, who: str) -> None:
    """As a reset or as an end: ztunnel makes ends of resets."""
    with ours_to_theirs(peer) as (client, server):
        one, other = (client, server) if who == "client" else (server, client)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        assert is_over(other)


def test_a_client_of_its_that_resets_is_gone_here_too(peer: Peer) -> None:
    log = peer.world.log("node-b")
    with peer.talk(peer.world.address("server-b")) as talk:
        talk.say()
        talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    log.line('direction="inbound"', f'src.identity="{THEIR_ID}"', "connection complete")


@contextmanager
def ours_to_theirs(peer: Peer) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A captured client of ours, and the application in its pod that accepted it."""
    client = peer.world.dial("client-b", peer.world.address(THEIRS))
    server, _ = peer.listener.accept()
    server.settimeout(PATIENCE_S)
    with client, server:
        yield client, server


def is_over(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
