"""Between pods of one node by way of the host (`--local-path=host`), with two workers, of which each dials itself.

What the host's firewall says of the destination's own port holds, and so does policy of the mesh, with the client's
proven identity; the applications see each other, and one relay carries their bytes.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest

from agent.lab.firewall import Denied
from redirect.netns import entered
from tests.support.honest import CLOSED
from tests.support.labmesh import OWN_VIP, PORT, VIP4, World, policy_manifest, principal, running
from tests.support.labtraffic import PATIENCE_S, until

pytestmark = pytest.mark.kernel

FLAGS = {"workers": "2", "local-path": "host", "log-format": "json", "connect-timeout-s": "1"}
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: demo}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running("q", tmp_path_factory.mktemp("host"), flags=FLAGS) as made:
        yield made


@pytest.mark.parametrize("version", [4, 6])
def test_it_takes_no_tunnel_and_every_connection_gets_through(world: World, version: int) -> None:
    """Strict mTLS too: what crosses the host is none of the plaintext that this forbids."""
    log, address = world.log("node-a"), world.address("server-a", version)
    with world.manifest("strict", STRICT):
        until(lambda: not world.is_served("outsider-a", address), "plaintext is refused")
        for _ in range(10):
            with world.talk("client-a", address) as talk:
                assert talk.say()["client"] == talk.address, "address and port are the client's own"
    assert not world.tunnels("node-a")
    for direction in ("outbound", "inbound"):
        fragments = (f'"direction":"{direction}"', "server-a", "sa/client")
        until(lambda fragments=fragments: len(log.lines(*fragments)) == 10, "a line for each")
    until(lambda: world.is_served("outsider-a", address), "plaintext is served again")


def test_every_worker_has_its_part(world: World) -> None:
    workers = [psutil.Process(pid) for pid in world.workers("node-a").values()]
    before = [worker.num_fds() for worker in workers]
    with ExitStack() as held:
        for _ in range(16):
            held.enter_context(world.talk("client-a", world.address("server-a"))).say()
        # What was dialled may have been in stock before; what was accepted was not.
        more = [worker.num_fds() - count for worker, count in zip(workers, before, strict=True)]
        assert sum(more) >= 2 * 16 and all(more), more


@pytest.mark.parametrize("denied", [PORT, None], ids=["port", "all"])
def test_what_the_host_denies_does_not_get_through(world: World, denied: int | None) -> None:
    pair = world.pod("client-a").address(4), world.pod("server-a").address(4)
    log, seen = world.log("node-a"), len(world.application("server-a").clients)
    world.lab.deny_forward(Denied(*pair, denied))
    try:
        assert not world.is_served("client-a", str(pair[1]))
        assert world.is_served("client-a", world.address("server-a", 6)), "IPv6 is not denied"
    finally:
        world.lab.allow_forward()
    assert len(world.application("server-a").clients) == seen + 1
    log.line('"direction":"outbound"', "CONNECT_TIMEOUT", f'"{pair[0]}:')
    assert world.is_served("client-a", str(pair[1]))


def test_the_port_of_tunnels_is_not_what_it_needs(world: World) -> None:
    world.lab.deny_forward(Denied(world.pod("client-a").address(4), world.pod("server-a").address(4), 15008))
    try:
        assert world.is_served("client-a", world.address("server-a"))
    finally:
        world.lab.allow_forward()


@pytest.mark.parametrize("vip", [OWN_VIP, VIP4])
def test_services_lead_there_too(world: World, vip: str) -> None:
    seen = len(world.application("server-a").clients)
    until(
        lambda: world.is_served("client-a", vip, 80) and len(world.application("server-a").clients) > seen,
        "an answer of server-a",
    )
    with world.talk("server-a", OWN_VIP, 80) as talk:
        assert talk.say()["server"].startswith(world.address("server-a")), "itself"


def test_policy_is_asked_at_the_beginning_and_when_it_changes(world: World) -> None:
    address = world.address("server-a")
    with world.talk("client-a", address) as live:
        live.say()
        with world.manifest("policy", policy_manifest("test", principal("nobody"))):
            until(live.is_ended, "the live connection ends")
            assert not world.is_served("client-a", address)
        with world.manifest("policy", policy_manifest("test", principal("client"))):
            until(
                lambda: world.is_served("client-a", address) and not world.is_served("outsider-a", address),
                "by the identity of the client",
            )


def test_bytes_are_counted_at_both_ends_and_each_direction_ends_by_itself(world: World) -> None:
    port, size = 7070, 3_000_000
    log = world.log("node-a")
    with entered(world.pod("server-a").netns), socket.create_server(("0.0.0.0", port)) as listener:
        listener.settimeout(PATIENCE_S)
        client = world.dial("client-a", world.address("server-a"), port)
        server, _ = listener.accept()
    with client, server:
        server.settimeout(PATIENCE_S)
        client.sendall(b"q")
        client.shutdown(socket.SHUT_WR)
        assert (server.recv(10), server.recv(10)) == (b"q", b"")
        with ThreadPoolExecutor(1) as pool:
            sent_all = pool.submit(lambda: (server.sendall(bytes(size)), server.shutdown(socket.SHUT_WR)))
            got = 0
            while more := len(client.recv(1 << 20)):
                got += more
            sent_all.result()
        assert got == size
    for direction, sent, received in (("outbound", 1, got), ("inbound", got, 1)):
        row = json.loads(log.line(f'"direction":"{direction}"', f":{port}"))
        assert (row["bytes_sent"], row["bytes_recv"]) == (sent, received)


@pytest.mark.parametrize("leaves", ["client-a", "server-a"])
def test_a_pod_that_leaves_the_mesh_is_cut(world: World, leaves: str) -> None:
    with world.talk("client-a", world.address("server-a")) as live:
        live.say()
        world.mesh.unenroll(world.pod(leaves))
        try:
            until(live.is_ended, "the connection is reset")
        finally:
            world.mesh.enroll(world.pod(leaves))
            world.mesh.wait_announced(world.pod(leaves))
    until(lambda: world.is_served("client-a", world.address("server-a")), "it is served again")


def test_a_worker_that_is_killed_costs_its_own_and_the_next_serve(world: World) -> None:
    workers = world.workers("node-a")
    with world.talk("client-a", world.address("server-a")) as live:
        live.say()
        world.kill(*workers.values())
        until(live.is_ended, "the connection is reset")
    until(lambda: world.is_served("client-a", world.address("server-a")), "new ones are served")
    world.mesh.wait_ready("node-a")
    for _ in range(10):
        assert world.is_served("client-a", world.address("server-a"))


def test_a_closed_port_ends_it(world: World) -> None:
    with pytest.raises(OSError), world.talk("client-a", world.address("server-a"), CLOSED) as talk:
        talk.say()
