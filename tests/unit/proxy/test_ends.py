"""How connections end on every path through a data plane: what the other application reads, and what both logs say."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.model.outcome import Outcome
from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.net.farewell import close
from agent.proxy.life import Life, dial_refusal
from agent.telemetry.record import FLAG_INDEX
from tests.support import mesh
from tests.support.datapath import DataPath, stream_pair
from tests.support.loopback import ours
from tests.support.told_worker import ToldWorker
from tests.support.two_nodes import CLIENT, SERVER, World, running

STRANGER = ours("5.5")


@dataclass
class Path:
    """A connection through the mesh between two applications of the test; `logs` are those of the nodes it crosses."""

    world: World
    client: socket.socket
    server: socket.socket
    logs: list[list[str]]

    def pair(self, first: str) -> tuple[socket.socket, socket.socket]:
        return (self.client, self.server) if first == "client" else (self.server, self.client)

    def errors(self) -> list[str]:
        """The `error=` of the one line at each end, empty where it has none."""
        self.world.driver.until(lambda: all(self.logs))
        return [line.partition(' error="')[2].rstrip('"') for log in self.logs for line in log]


def by_tunnel(world: World, listener: socket.socket) -> Path:
    port = listener.getsockname()[1]
    client = world.connect(f"{SERVER}:{port}")
    return Path(world, client, accepted(listener), [world.here.lines, world.there.lines])


def by_hand_over(world: World, listener: socket.socket) -> Path:
    world.driver.call(lambda: world.there.add_pod(world.client, listening=False))
    target = mesh.at(f"{SERVER}:{listener.getsockname()[1]}")
    client = world.driver.call(lambda: world.there.capture(CLIENT, target))
    assert isinstance(client, socket.socket)
    return Path(world, client, accepted(listener), [world.there.lines])


def by_host(world: World, listener: socket.socket) -> Path:
    def prepare() -> socket.socket:
        world.there.add_pod(world.client, listening=False)
        world.there.share.take(0)
        return world.there.capture(CLIENT, target)

    target = mesh.at(f"{SERVER}:{listener.getsockname()[1]}")
    client = world.driver.call(prepare)
    assert isinstance(client, socket.socket)
    # The kernel would bring the first one to the plaintext listener.
    crossing = accepted(listener)
    crossing.setblocking(False)
    peer = SocketAddress.from_sockname(crossing.getpeername())
    world.driver.call(lambda: world.there.inbound_plain.accepted(crossing, peer, target))
    return Path(world, client, accepted(listener), [world.there.lines])


def by_passthrough(world: World, listener: socket.socket) -> Path:
    world.driver.call(lambda: world.here.add_pod(mesh.workload("lone", ours("1.8")), listening=False))
    target = mesh.at(f"{SERVER}:{listener.getsockname()[1]}")
    bare = mesh.workload("server", SERVER, protocol=mesh.TunnelProtocol.NONE)
    world.driver.call(lambda: world.here.know(bare))
    client = world.driver.call(lambda: world.here.capture(CLIENT, target))
    assert isinstance(client, socket.socket)
    return Path(world, client, accepted(listener), [world.here.lines])


def by_plaintext(world: World, listener: socket.socket) -> Path:
    client, captured = stream_pair(STRANGER)
    captured.setblocking(False)
    peer = mesh.at(f"{STRANGER}:{client.getsockname()[1]}")
    local = mesh.at(f"{SERVER}:{listener.getsockname()[1]}")
    world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, local))
    return Path(world, client, accepted(listener), [world.there.lines])


def accepted(listener: socket.socket) -> socket.socket:
    listener.settimeout(10)
    sock, _ = listener.accept()
    return sock


WAYS: dict[str, Callable[[World, socket.socket], Path]] = {
    "tunnel": by_tunnel,
    "hand-over": by_hand_over,
    "host": by_host,
    "passthrough": by_passthrough,
    "plaintext": by_plaintext,
}
OPTIONS = {"hand-over": {"local_path": "handover"}, "host": {"local_path": "host", "workers": "1"}}


@pytest.fixture(params=list(WAYS))
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    options = OPTIONS.get(request.param, {})
    with running(**options) as world, socket.create_server((SERVER, 0)) as listener:
        made = WAYS[request.param](world, listener)
        with made.client, made.server:
            for sock in (made.client, made.server):
                sock.settimeout(10)
            yield made


@pytest.fixture
def tunnel(world: World) -> Iterator[Path]:
    with socket.create_server((SERVER, 0)) as listener:
        made = by_tunnel(world, listener)
        with made.client, made.server:
            for sock in (made.client, made.server):
                sock.settimeout(10)
            yield made


def rest(sock: socket.socket) -> tuple[bytes, str]:
    """All that is still to be read, and how it ended."""
    got = b""
    try:
        while piece := sock.recv(1 << 16):
            got += piece
    except ConnectionResetError:
        return got, "reset"
    return got, "end"


def flags(plane: DataPath) -> dict[str, int]:
    """Closed connections by their response flag."""
    closed: dict[str, int] = {}
    for labels, tally in plane.metrics.snapshot()["tcp"]:
        if tally[1]:
            closed[labels[FLAG_INDEX]] = closed.get(labels[FLAG_INDEX], 0) + tally[1]
    return closed


def deny(world: World) -> None:
    match = Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/client"),))
    world.put_policy("apps/no-client", mesh.policy("no-client", Action.DENY, match))


@pytest.mark.parametrize("first", ["client", "server"])
def test_an_applications_reset_is_one_for_the_other_and_named_in_every_log(path: Path, first: str) -> None:
    one, other = path.pair(first)
    one.sendall(b"PART")
    assert other.recv(1) == b"P"
    close(one, reset=True)
    assert rest(other) == (b"ART", "reset")
    errors = path.errors()
    assert errors and all(error.startswith(f"RESET: the {first} reset the connection") for error in errors)
    assert all("\tinfo\taccess" in line for log in path.logs for line in log), "the mesh did not fail"


def test_an_orderly_end_has_no_error(path: Path) -> None:
    path.client.sendall(b"question")
    path.client.shutdown(socket.SHUT_WR)
    assert rest(path.server) == (b"question", "end")
    path.server.sendall(b"answer")
    path.server.close()
    assert rest(path.client) == (b"answer", "end")
    path.client.close()
    assert set(path.errors()) == {""}


def test_an_applications_reset_is_no_failure_in_the_metrics(tunnel: Path) -> None:
    tunnel.client.sendall(b"x")
    assert tunnel.server.recv(1) == b"x"
    close(tunnel.server, reset=True)
    assert rest(tunnel.client) == (b"", "reset")
    tunnel.errors()
    assert flags(tunnel.world.here) == flags(tunnel.world.there) == {"-": 1}


def test_a_policy_cut_is_a_reset_and_both_logs_know_it(tunnel: Path) -> None:
    tunnel.server.sendall(b"half of the ans")
    assert tunnel.client.recv(1) == b"h"
    deny(tunnel.world)
    assert rest(tunnel.client) == (b"alf of the ans", "reset") and rest(tunnel.server) == (b"", "reset")
    source, destination = tunnel.errors()
    assert destination.startswith("POLICY_CHANGED: connection closed due to policy change: ")
    assert "apps/no-client" in destination
    assert source == (
        "CUT_BY_PEER: the server's proxy ended the connection"
        " (policy or a certificate forbids it now, INADEQUATE_SECURITY)"
    )
    assert (flags(tunnel.world.here), flags(tunnel.world.there)) == ({"CONNECT": 1}, {"DENY": 1})


@pytest.mark.parametrize("leaves", ["client", "server"])
def test_a_pod_that_leaves_the_mesh_resets_both_and_the_other_node_is_told(tunnel: Path, leaves: str) -> None:
    world, other = tunnel.world, tunnel.pair(leaves)[1]
    tunnel.client.sendall(b"x")
    assert tunnel.server.recv(1) == b"x"
    plane, address = (world.here, CLIENT) if leaves == "client" else (world.there, SERVER)
    world.driver.call(lambda: plane.close_pod(frozenset([parse_ip(address)])))
    for sock in (other, tunnel.pair(leaves)[0]):
        assert rest(sock) == (b"", "reset")
    errors = tunnel.errors()
    ours, theirs = errors if leaves == "client" else errors[::-1]
    assert ours == "POD_REMOVED: the pod left the mesh"
    assert theirs == (
        f"CUT_BY_PEER: the {leaves}'s proxy ended the connection (INTERNAL_ERROR); it said: the pod left the mesh"
    )


@pytest.mark.parametrize("stops", ["client", "server"])
def test_the_drain_deadline_resets_both_and_each_log_names_it(tunnel: Path, stops: str) -> None:
    world = tunnel.world
    told = ToldWorker(world.driver, world.here if stops == "client" else world.there)
    tunnel.client.sendall(b"x")
    assert tunnel.server.recv(1) == b"x"
    world.driver.call(lambda: told.drain.start(5.0))
    tunnel.server.sendall(b"so far")
    assert tunnel.client.recv(1) == b"s"
    world.driver.skew_s = 5.0
    assert rest(tunnel.client) == (b"o far", "reset") and rest(tunnel.server) == (b"", "reset")
    reason = "the agent stopped and its drain deadline of 5 s passed"
    errors = tunnel.errors()
    ours, theirs = errors if stops == "client" else errors[::-1]
    assert ours == f"DRAINED: {reason}"
    assert (
        theirs == f"CUT_BY_PEER: the {stops}'s proxy ended the connection (INTERNAL_ERROR); it said: {reason}"
    )
    world.driver.until(lambda: told.ended == 1)
    told.close()


def test_a_lost_hbone_connection_resets_both(tunnel: Path) -> None:
    world = tunnel.world
    tunnel.client.sendall(b"x")
    assert tunnel.server.recv(1) == b"x"
    world.driver.call(lambda: [link.tls._stream.cut() for _, link in world.here.pool.links])
    assert rest(tunnel.server) == (b"", "reset")
    world.driver.until(lambda: world.there.lines)
    assert (
        "RESET: the HBONE connection ended: the connection broke: Connection reset by peer"
        in (world.there.lines[0])
    )


def test_a_connection_that_waits_to_be_reset_can_still_be_cut(tunnel: Path) -> None:
    """It is still known: policy, a pod's leaving and the deadline of a stop end it at once."""
    world = tunnel.world
    tunnel.client.sendall(b"x")
    assert tunnel.server.recv(1) == b"x"
    # The kernel takes all of it on its way, but the server's end next to nothing.
    tunnel.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    tunnel.client.sendall(bytes(1 << 20))
    close(tunnel.client, reset=True)
    world.driver.until(lambda: world.here.lines)
    (live,) = world.there.registry
    assert isinstance(live.owner, Life) and live.owner._relay is not None
    relay = live.owner._relay
    world.driver.until(lambda: relay._parting)
    assert not world.there.lines, "the server has not read what came before"
    deny(world)
    world.driver.until(lambda: world.there.lines)
    got, end = rest(tunnel.server)
    assert end == "reset" and len(got) < 1 << 20


class Destroyed(socket.socket):
    """A socket that the kernel destroyed by sock_diag(7) when its other end was reset."""

    def getsockopt(self, *args: Any) -> Any:
        found = super().getsockopt(*args)
        is_error = args == (socket.SOL_SOCKET, socket.SO_ERROR) and found
        return errno.ECONNABORTED if is_error else found


@pytest.mark.parametrize("is_destroyed", [True, False])
def test_who_did_not_give_up_is_not_said_to_have(world: World, is_destroyed: bool) -> None:
    """A pod that leaves the mesh has its sockets destroyed, and so the client's, while it is not connected yet."""
    application, captured = stream_pair(CLIENT)
    peer = SocketAddress.from_sockname(application.getsockname())
    sock = (Destroyed if is_destroyed else socket.socket)(fileno=captured.detach())
    sock.setblocking(False)

    def begin() -> None:
        world.here.outbound.accepted(sock, peer, mesh.at(f"{SERVER}:8080"))
        close(application, reset=True)

    world.driver.call(begin)
    world.driver.until(lambda: bool(world.here.lines))
    expected = "POD_REMOVED: the kernel closed its sockets" if is_destroyed else "RESET: the client gave up"
    assert expected in world.here.lines[0]


def test_a_dial_whose_socket_was_destroyed_says_so() -> None:
    error = OSError(errno.ECONNABORTED, "Software caused connection abort")
    assert dial_refusal(error, mesh.at("10.1.0.2:80")).outcome is Outcome.POD_REMOVED
