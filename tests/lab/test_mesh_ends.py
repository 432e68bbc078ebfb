"""How connections of real pods end when something breaks in the middle: as without a mesh, and both logs say why.

An application that reads an end where there was a cut takes half of an answer, or of an upload, for all of it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from agent.net.farewell import close
from agent.net.parting import unacknowledged
from redirect.netns import entered
from tests.support.labmesh import World, policy_manifest, principal
from tests.support.labtraffic import PATIENCE_S, LogReader, until

pytestmark = pytest.mark.kernel

PORT = 7001
PART = b"s" * 10_000
NODES = {"client": "node-a", "server": "node-b"}
DRAIN_S = 1


@dataclass
class Pair:
    """A connection between two pods, both ends in the test's hands; the logs of their nodes since before it."""

    client: socket.socket
    server: socket.socket
    logs: dict[str, LogReader]
    address: str

    def pair(self, first: str) -> tuple[socket.socket, socket.socket]:
        return (self.client, self.server) if first == "client" else (self.server, self.client)

    def error(self, end: str) -> str:
        """The `error=` of the log at the client's or the server's node."""
        if end == "client":
            line = self.logs[end].line('direction="outbound"', f"src.addr={self.address} ")
        else:
            line = self.logs[end].line('direction="inbound"', f":{PORT} ")
        return line.partition(' error="')[2].rstrip('"')


@contextmanager
def connected(world: World, client: str, server: str) -> Iterator[Pair]:
    """Has carried a byte each way."""
    logs = {"client": world.log(f"node-{client[-1]}"), "server": world.log(f"node-{server[-1]}")}
    with entered(world.pod(server).netns), socket.create_server(("0.0.0.0", PORT)) as listener:
        listener.settimeout(PATIENCE_S)
        one = world.dial(client, world.address(server), PORT)
        other, _ = listener.accept()
    with one, other:
        other.settimeout(PATIENCE_S)
        for sender, reader in ((one, other), (other, one)):
            sender.sendall(b"x")
            assert reader.recv(1) == b"x"
        host, port = one.getsockname()[:2]
        yield Pair(one, other, logs, f"{host}:{port}")


def taken(sock: socket.socket, size: int) -> bytes:
    """So many bytes. A socket with a time-out does not wait for all of them by itself, whatever it is told."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def rest(sock: socket.socket) -> tuple[int, str]:
    """How many bytes are still to be read, and how it ends."""
    got = 0
    try:
        while size := len(sock.recv(1 << 16)):
            got += size
    except ConnectionResetError:
        return got, "reset"
    return got, "end"


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize(
    ("client", "server", "logged"),
    [
        ("client-a", "server-b", {"client", "server"}),
        ("client-a", "server-a", {"client", "server"}),
        ("client-a", "outsider-b", {"client"}),
        ("outsider-a", "server-b", {"server"}),
    ],
    ids=["across", "same node", "passthrough", "plaintext"],
)
def test_an_applications_reset_comes_behind_its_bytes_and_in_the_logs(
    world: World, client: str, server: str, logged: set[str], first: str
) -> None:
    with connected(world, client, server) as it:
        one, other = it.pair(first)
        for at in range(0, len(PART), 1000):
            one.sendall(PART[at : at + 1000])
        until(lambda: not unacknowledged(one), "they have left its own kernel, which would drop them")
        close(one, reset=True)
        assert rest(other) == (len(PART), "reset")
        for end in logged:
            assert it.error(end).startswith(f"RESET: the {first} reset the connection")


@pytest.mark.parametrize("first", ["client", "server"])
def test_an_end_is_still_an_end(world: World, first: str) -> None:
    with connected(world, "client-a", "server-b") as it:
        one, other = it.pair(first)
        one.sendall(PART)
        one.shutdown(socket.SHUT_WR)
        assert rest(other) == (len(PART), "end")
        other.sendall(b"answer")
        other.close()
        assert rest(one) == (6, "end")
        one.close()
        assert it.error("client") == it.error("server") == ""


def test_a_policy_that_cuts_a_download_is_a_reset_and_in_both_logs(world: World) -> None:
    with connected(world, "client-a", "server-b") as it:
        it.server.sendall(PART)
        assert it.client.recv(1, socket.MSG_PEEK) == b"s"
        deny = policy_manifest("cut", principal("client"), action="DENY")
        with world.manifest("cut", deny):
            got, end = rest(it.client)
            assert end == "reset" and got == len(PART)
            assert rest(it.server) == (0, "reset")
            assert "demo/cut" in it.error("server") and it.error("server").startswith("POLICY_CHANGED: ")
            assert it.error("client").startswith(
                "CUT_BY_PEER: the server's proxy ended the connection (policy"
            )
    until(lambda: world.is_served("client-a", world.address("server-b")), "the mesh is open again")


@pytest.mark.parametrize("end", ["client", "server"])
def test_workers_that_are_killed_leave_resets(world: World, end: str) -> None:
    node = NODES[end]
    with connected(world, "client-a", "server-b") as it:
        it.server.sendall(PART)
        assert taken(it.client, len(PART)) == PART
        world.kill(*world.workers(node).values())
        assert rest(it.client) == (0, "reset") and rest(it.server) == (0, "reset")
        other = "server" if end == "client" else "client"
        assert it.error(other).startswith("RESET: the HBONE connection ended: ")
    world.mesh.wait_ready(node)


@pytest.mark.parametrize("end", ["client", "server"])
def test_the_drain_deadline_leaves_resets_and_both_logs_name_it(world: World, end: str) -> None:
    node = NODES[end]
    with connected(world, "client-a", "server-b") as it:
        process = world.process(f"agent-{node}")
        process.terminate()
        it.server.sendall(PART)
        assert rest(it.client) == (len(PART), "reset") and rest(it.server) == (0, "reset")
        process.wait(PATIENCE_S)
        reason = f"the agent stopped and its drain deadline of {DRAIN_S} s passed"
        assert it.error(end) == f"DRAINED: {reason}"
        other = "server" if end == "client" else "client"
        assert it.error(other).startswith(f"CUT_BY_PEER: the {end}'s proxy ended the connection")
        assert it.error(other).endswith(f"it said: {reason}")
    world.restart(node)
    until(lambda: world.is_served("client-a", world.address("server-b")), "it is served again")


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_pod_that_is_unenrolled_leaves_resets_and_the_other_log_knows_why(world: World, end: str) -> None:
    pod = world.pod({"client": "client-a", "server": "server-b"}[end])
    with connected(world, "client-a", "server-b") as it:
        it.server.sendall(PART)
        assert taken(it.client, len(PART)) == PART
        world.mesh.unenroll(pod)
        assert rest(it.client) == (0, "reset") and rest(it.server) == (0, "reset")
        assert it.error(end).startswith("POD_REMOVED: ")
        # The kernel ends both of its sockets there: which one the worker sees first is what it can still say.
        other = "server" if end == "client" else "client"
        told = f"CUT_BY_PEER: the {end}'s proxy ended the connection (INTERNAL_ERROR)"
        assert it.error(other).startswith((told, "RESET: the HBONE connection ended: the connection broke"))
    world.mesh.enroll(pod)
    world.mesh.wait_announced(pod)
    until(lambda: world.is_served("client-a", world.address("server-b")), "it is served again")
