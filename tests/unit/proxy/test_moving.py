"""Live plain relays go from one worker to the next: bytes, ends, records, figures and policy, over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.model.unit import BadUnit, Unit
from agent.model.workload import TunnelProtocol
from agent.proxy.moving import movables, thaw
from agent.state.apply import Batch
from agent.telemetry.record import LABEL_NAMES
from tests.support import mesh
from tests.support.datapath import DataPath, stream_pair
from tests.support.loopback import ours
from tests.support.moves import Handing, counts, field, move, sockets_open, successor
from tests.support.two_nodes import CLIENT, SERVER, World, ended, exchange

OUTSIDE = ours("5.5")
STRICT = mesh.policy("strict", Action.DENY, Match(not_principals=(StringMatch(StringMatchKind.PRESENCE),)))


def plain(world: World) -> socket.socket:
    """A plaintext connection to the server's pod, from a client outside the mesh, that has carried a byte."""
    application, captured = stream_pair(OUTSIDE)
    captured.setblocking(False)
    peer = mesh.at(f"{OUTSIDE}:{application.getsockname()[1]}")
    world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, mesh.at(f"{SERVER}:8080")))
    application.settimeout(5)
    assert echoed(application, b"x")
    return application


def echoed(app: socket.socket, data: bytes) -> bool:
    app.sendall(data)
    return app.recv(len(data), socket.MSG_WAITALL) == data


@contextlib.contextmanager
def passed_through(world: World) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's pod and somebody outside the mesh, with a connection between them."""
    with socket.create_server((ours("3.3"), 0)) as outside:
        outside.settimeout(5)
        app = world.connect(f"{ours('3.3')}:{outside.getsockname()[1]}")
        served, _ = outside.accept()
        served.settimeout(5)
        with app, served:
            yield app, served


def deny(plane: DataPath) -> None:
    plane.store.apply(Batch(authorizations=(("apps/strict", STRICT),)))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_bytes_that_flow_are_not_lost_and_not_changed(world: World) -> None:
    """Up and down at once, through five successions, with readers that are slower than the writers."""
    size = 24 << 20
    data = os.urandom(1 << 20) * (size >> 20)
    with passed_through(world) as (app, served):
        digests: dict[str, str] = {}

        def write(sock: socket.socket) -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        def read(sock: socket.socket, name: str) -> None:
            found = hashlib.sha256()
            while chunk := sock.recv(50_000):
                found.update(chunk)
            digests[name] = found.hexdigest()

        for sock in (app, served):
            sock.settimeout(30)
        work = [
            threading.Thread(target=write, args=(app,)),
            threading.Thread(target=write, args=(served,)),
            threading.Thread(target=read, args=(app, "down")),
            threading.Thread(target=read, args=(served, "up")),
        ]
        for thread in work:
            thread.start()
        giver, moved = world.here, 0
        for _ in range(5):
            taker = successor(world, world.here)
            moved += len(move(world, giver, taker))
            giver = taker
        for thread in work:
            thread.join()
        expected = hashlib.sha256(data).hexdigest()
        assert digests == {"down": expected, "up": expected}
        assert moved
    world.driver.until(lambda: counts(*world.planes) == (1, 1, 0, size, size))
    world.driver.until(lambda: sum(len(plane.lines) for plane in world.planes) == 1)
    (line,) = [line for plane in world.planes for line in plane.lines]
    assert (field(line, "bytes_sent"), field(line, "bytes_recv")) == (str(size), str(size))
    assert world.driver.call(lambda: sockets_open(*world.planes)) == 0


def test_both_halves_may_be_closed_before_and_after(world: World) -> None:
    with passed_through(world) as (app, served):
        app.sendall(b"question")
        app.shutdown(socket.SHUT_WR)
        assert served.recv(8, socket.MSG_WAITALL) == b"question" and served.recv(1) == b""
        taker = successor(world, world.here)
        assert move(world, world.here, taker) == ["relay"]
        served.sendall(b"answer")
        assert app.recv(6, socket.MSG_WAITALL) == b"answer"
        served.shutdown(socket.SHUT_WR)
        assert app.recv(1) == b"", "an end stays an end, not a reset"
    world.driver.until(lambda: bool(taker.lines))
    assert "connection complete" in taker.lines[0] and "error" not in taker.lines[0]
    assert not world.here.lines, "its end is told once"


def test_the_record_is_that_of_one_connection(world: World) -> None:
    """Opened once, closed once, its bytes added up, its duration that since it was opened; nowhere open twice."""
    app = plain(world)
    taker = successor(world, world.there)
    before = world.driver.call(lambda: counts(world.there, taker))
    assert before == (1, 0, 0, 1, 1)
    world.driver.skew_s += 100.0
    assert world.driver.call(lambda: sockets_open(world.there)) == 1
    assert move(world, world.there, taker) == ["relay"]
    assert world.driver.call(lambda: (sockets_open(world.there), sockets_open(taker))) == (0, 1)
    assert world.driver.call(lambda: counts(world.there, taker)) == before
    assert world.driver.call(lambda: (len(world.there.registry), world.there.inbound_plain.count)) == (0, 0)
    assert world.driver.call(lambda: (len(taker.registry), taker.inbound_plain.count)) == (1, 1)
    assert exchange(app, b"more") == b"more"
    world.driver.until(lambda: counts(world.there, taker) == (1, 1, 0, 5, 5))
    assert world.driver.call(lambda: (sockets_open(taker), taker.inbound_plain.count)) == (0, 0)
    (line,) = taker.lines
    assert (field(line, "bytes_sent"), field(line, "bytes_recv")) == ("5", "5")


def test_a_duration_is_that_since_it_was_opened(world: World) -> None:
    app = plain(world)
    opened_s = time.monotonic()
    world.there.reporter.clock = lambda: time.monotonic() + 500.0  # so long ago it was opened
    taker = successor(world, world.there)
    taker.reporter.clock = lambda: time.monotonic() - 5000.0  # clocks of two containers need not agree
    move(world, world.there, taker)
    assert exchange(app, b"y") == b"y"
    world.driver.until(lambda: bool(taker.lines))
    duration_s = int(field(taker.lines[0], "duration").removesuffix("ms")) / 1000
    assert 500 <= duration_s <= 500 + time.monotonic() - opened_s + 1.0


def test_a_workload_that_is_gone_is_named_in_the_line_all_the_same(world: World) -> None:
    there = mesh.workload("there", ours("3.3"), workload_name="there", protocol=TunnelProtocol.NONE)
    world.driver.call(lambda: world.here.know(there))
    with passed_through(world) as (app, served):
        assert field_of_metric(world.here) == "there"
        taker = successor(world, world.here)  # which never knew of that workload
        move(world, world.here, taker)
        served.sendall(b"x")
        assert app.recv(1) == b"x"
    world.driver.until(lambda: bool(taker.lines))
    assert field(taker.lines[0], "dst.workload") == "there"
    assert field(taker.lines[0], "src.workload") == "client"
    assert field_of_metric(taker) == "there"


def field_of_metric(plane: DataPath) -> str:
    """The destination of the only label set."""
    ((values, _),) = plane.metrics.snapshot()["tcp"]
    return values[LABEL_NAMES.index("destination_workload")]


def test_a_policy_that_comes_between_cuts_it_before_a_byte(world: World) -> None:
    app = plain(world)
    taker = successor(world, world.there)

    def meanwhile() -> None:
        app.sendall(b"after the verdict")
        deny(taker)

    move(world, world.there, taker, meanwhile)
    with app, pytest.raises(ConnectionResetError):
        app.recv(1)
    world.driver.until(lambda: counts(world.there, taker) == (1, 1, 1, 1, 1))
    (line,) = taker.lines
    assert "POLICY_CHANGED" in line and "apps/strict" in line
    assert world.driver.call(lambda: (len(taker.registry), taker.inbound_plain.count)) == (0, 0)
    assert not world.there.lines


def test_a_pod_that_left_meanwhile_takes_it_along(world: World) -> None:
    app = plain(world)
    taker = successor(world, world.there)
    move(world, world.there, taker, lambda: taker.pods.replace(()))
    assert ended(app)
    world.driver.until(lambda: bool(taker.lines))
    assert "POD_REMOVED" in taker.lines[0]


def test_an_address_that_is_another_pods_by_now_does_not_inherit(world: World) -> None:
    app = plain(world)
    taker = successor(world, world.there)
    heir = mesh.workload("heir", SERVER, service_account="server")

    def meanwhile() -> None:
        taker._local.clear()
        taker.add_pod(heir, listening=False)

    move(world, world.there, taker, meanwhile)
    assert ended(app)
    world.driver.until(lambda: bool(taker.lines))
    assert "POD_REMOVED" in taker.lines[0]


def test_what_nobody_took_goes_on_where_it_was(world: World) -> None:
    app = plain(world)
    taker = successor(world, world.there)
    held = descriptors()
    assert move(world, world.there, taker, end=Handing.no) == ["relay"]
    assert echoed(app, b"still here")
    assert descriptors() == held
    assert world.driver.call(lambda: (len(world.there.registry), world.there.inbound_plain.count)) == (1, 1)
    assert world.driver.call(lambda: counts(world.there, taker)) == (1, 0, 0, 11, 11)
    assert world.driver.call(lambda: sockets_open(world.there)) == 1
    assert exchange(app, b"y") == b"y"
    world.driver.until(lambda: counts(world.there, taker) == (1, 1, 0, 12, 12))


def test_what_is_taken_back_is_judged_too(world: World) -> None:
    app = plain(world)
    taker = successor(world, world.there)
    move(world, world.there, taker, lambda: deny(world.there), end=Handing.no)
    assert ended(app)
    world.driver.until(lambda: bool(world.there.lines))
    assert "apps/strict" in world.there.lines[0]


@pytest.mark.parametrize("refusing", [{"unknown_destination": "refuse"}, {"mesh_cidrs": f"{ours('3.3')}/32"}])
def test_what_passes_through_ends_where_the_next_worker_would_refuse_it(
    world: World, refusing: dict[str, str]
) -> None:
    taker = successor(world, world.here, **refusing)
    with passed_through(world) as (app, served):
        assert move(world, world.here, taker) == ["relay"]
        for sock in (app, served):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    world.driver.until(lambda: bool(taker.lines))
    (line,) = taker.lines
    assert "UNKNOWN_MESH_DESTINATION" in line and ours("3.3") in line
    assert not world.driver.call(lambda: len(taker.registry))


def test_what_passes_through_goes_on_where_it_has_become_known(world: World) -> None:
    """As in the worker that had it: the options of the next refuse nothing then, and its path is not looked at."""
    taker = successor(world, world.here, unknown_destination="refuse")
    world.driver.call(lambda: taker.know(mesh.workload("found", ours("3.3"))))
    with passed_through(world) as (app, served):
        assert move(world, world.here, taker) == ["relay"]
        app.sendall(b"x")
        assert served.recv(1) == b"x"


@pytest.mark.parametrize("world", [{"local_path": "handover"}], indirect=True)
def test_a_hand_over_inside_the_node_moves_with_both_records(world: World) -> None:
    def capture() -> socket.socket:
        world.there.add_pod(world.client, listening=False)
        return world.there.capture(CLIENT, mesh.at(f"{SERVER}:8080"))

    app = world.driver.call(capture)
    assert isinstance(app, socket.socket)
    app.settimeout(5)
    assert echoed(app, b"x")
    taker = successor(world, world.there, local_path="handover")
    world.driver.call(lambda: taker.add_pod(world.client, listening=False))
    assert move(world, world.there, taker) == ["relay"]
    assert world.driver.call(lambda: (len(world.there.registry), len(taker.registry))) == (0, 2)
    assert echoed(app, b"y")
    assert world.driver.call(lambda: counts(world.there, taker)) == (2, 0, 0, 4, 4)
    match = Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/client"),))
    policy = mesh.policy("no-client", Action.DENY, match)
    world.driver.call(lambda: taker.store.apply(Batch(authorizations=(("apps/no-client", policy),))))
    assert ended(app)
    world.driver.until(lambda: len(taker.lines) == 2)
    assert all("apps/no-client" in line for line in taker.lines)


@pytest.mark.parametrize("world", [{"mesh_cidrs": "127.0.0.0/8"}], indirect=True)
def test_who_waits_to_hear_of_the_destination_begins_anew(world: World) -> None:
    """Nothing was opened yet, so nothing is counted twice, and the next one's state is asked."""
    app = world.connect(f"{ours('7.7')}:8080")
    assert world.driver.call(lambda: [live.protocol for live in world.here.registry]) == ["WAITING"]
    taker = successor(world, world.here, mesh_cidrs="127.0.0.0/8")
    assert move(world, world.here, taker) == ["seeking"]
    assert world.driver.call(lambda: (len(world.here.registry), len(world.here.seeker))) == (0, 0)
    late = mesh.workload("late", ours("7.7"), protocol=TunnelProtocol.NONE)
    with socket.create_server((ours("7.7"), 8080)) as listener:
        world.driver.call(lambda: taker.know(late))
        served, _ = listener.accept()
        served.sendall(b"x")
        assert app.recv(1) == b"x"
        served.close()
        app.close()
    world.driver.until(lambda: counts(world.here, taker) == (1, 1, 0, 0, 1))


def test_a_peer_that_has_not_said_hello_is_heard_out_by_the_next(world: World) -> None:
    first = bytes.fromhex("16030100")
    with socket.create_connection((SERVER, 15008)) as peer:
        peer.sendall(first)
        lobby = world.there.inbound.lobby
        world.driver.until(lambda: [caller.said for caller in lobby.callers] == [first])
        taker = successor(world, world.there)
        assert move(world, world.there, taker) == ["caller"]
        assert world.driver.call(lambda: (world.there.inbound.held, taker.inbound.held)) == (0, 1)
        assert world.driver.call(lambda: [c.said for c in taker.inbound.lobby.callers]) == [first]
        peer.sendall(b"\x05\x02")
        assert ended(peer), "a handshake that does not begin with a ClientHello"
    world.driver.until(lambda: bool(taker.lines))
    assert "ClientHello" in taker.lines[0]


@pytest.mark.parametrize("world", [{"handshake_timeout_s": "100"}], indirect=True)
def test_a_silent_peer_is_not_silent_for_longer_by_that(world: World) -> None:
    with socket.create_connection((SERVER, 15008)) as peer:
        peer.settimeout(5)
        world.driver.until(lambda: len(world.there.inbound.lobby.callers) == 1)
        world.driver.skew_s += 60.0
        taker = successor(world, world.there, handshake_timeout_s="100")
        assert move(world, world.there, taker) == ["caller"]
        world.driver.skew_s += 50.0
        assert peer.recv(1) == b""
    world.driver.until(lambda: bool(taker.lines))
    assert "not done in time" in taker.lines[0]


def test_a_unit_of_another_kind_is_refused_and_leaks_nothing(world: World) -> None:
    held = descriptors()
    fds = [os.dup(world.app.fileno()), os.dup(world.app.fileno())]
    with pytest.raises(BadUnit, match="'tomorrow'"):
        world.driver.call(lambda: thaw(world.here, Unit("tomorrow", {}), fds))
    assert descriptors() == held


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("standing", "live", "pod"), "not an address"),
        (("standing", "live", "facts"), None),
        (("standing", "live", "destination_uid"), ""),
        (("standing", "live", "later"), 1),
        (("standing", "record", "labels"), ["destination"]),
        (("standing", "record", "direction"), "outbound"),
        (("standing", "record", "to_server_bytes"), -1),
        (("standing", "record", "source_identity"), "spiffe://nobody"),
        (("standing", "pod"), 7),
        (("half",), {}),
        (("relay",), {}),
        (("more",), "fields"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_state_that_makes_no_sense_is_refused_and_goes_on_elsewhere(
    world: World, where: tuple[str, ...], value: object
) -> None:
    app = plain(world)
    taker = successor(world, world.there)
    held = descriptors()

    def work() -> None:
        (movable,) = movables(world.there)
        unit, fds = movable.freeze()
        place = unit.fields
        for name in where[:-1]:
            place = place[name]  # type: ignore[assignment,index]
        kept = place.copy()
        place[where[-1]] = value  # type: ignore[assignment]
        with pytest.raises(BadUnit):
            thaw(taker, unit, [os.dup(fd) for fd in fds])
        place.clear()
        place.update(kept)
        movable.take_back()

    world.driver.call(work)
    assert descriptors() == held
    assert not len(taker.registry) and counts(taker) == (0, 0, 0, 0, 0)
    assert exchange(app, b"y") == b"y"
