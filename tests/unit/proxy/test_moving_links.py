"""Live HBONE connections of either end go from one worker to the next with their tunnels, over real sockets and TLS."""

from __future__ import annotations

import hashlib
import os
import socket
import threading

import pytest

from agent.model.address import parse_ip
from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.model.unit import BadUnit, decode, encode
from agent.net.tunnel_link import TunnelLink
from agent.proxy.moving import movables, thaw
from agent.proxy.moving_links import carried_by
from agent.state.apply import Batch
from tests.support import mesh
from tests.support.datapath import DataPath
from tests.support.loopback import ours
from tests.support.moves import (
    Handing,
    accepted_from,
    counts,
    dialling,
    field,
    filled,
    move,
    sockets_open,
    successor,
)
from tests.support.two_nodes import CLIENT, SERVER, World, ended, exchange

NO_CLIENT = mesh.policy(
    "no-client", Action.DENY, Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/client"),))
)
ENDS = pytest.mark.parametrize("end", ["client", "server"])


def echoed(app: socket.socket, data: bytes) -> bool:
    app.sendall(data)
    return app.recv(len(data), socket.MSG_WAITALL) == data


def connected(world: World, count: int) -> list[socket.socket]:
    apps = [world.connect() for _ in range(count)]
    assert all(echoed(app, b"x") for app in apps)
    return apps


def of(world: World, end: str) -> DataPath:
    return world.here if end == "client" else world.there


def from_pod(world: World, plane: DataPath) -> socket.socket:
    """Another connection of the client's pod, by this worker."""
    app = world.driver.call(lambda: plane.capture(CLIENT, mesh.at(f"{SERVER}:8080")))
    assert isinstance(app, socket.socket)
    app.settimeout(5)
    return app


def links(plane: DataPath) -> int:
    return len(plane.pool.links) + len(plane.inbound.links)


@ENDS
def test_tunnels_go_on_and_new_ones_use_the_same_connection(world: World, end: str) -> None:
    apps = connected(world, 20)
    giver, taker = of(world, end), successor(world, of(world, end))
    assert move(world, giver, taker) == [f"{end} link"]
    assert world.driver.call(lambda: (links(giver), len(giver.registry))) == (0, 0)
    assert world.driver.call(lambda: (links(taker), len(taker.registry))) == (1, 20)
    assert all(echoed(app, bytes([at]) * 1000) for at, app in enumerate(apps))
    # Counters go on: opened once each, and nothing of the bytes twice.
    assert world.driver.call(lambda: counts(giver, taker)) == (20, 0, 0, 20 * 1001, 20 * 1001)
    assert world.driver.call(lambda: (sockets_open(giver), sockets_open(taker))) == (0, 20)
    new = from_pod(world, taker if end == "client" else world.here)
    assert exchange(new, b"one more") == b"one more"
    handshakes = world.there.tallies.of(parse_ip(SERVER)).handshakes_done
    assert handshakes == 1, "it had a connection to go by"
    assert all(exchange(app, b"y") == b"y" for app in apps)
    world.driver.until(lambda: counts(giver, taker)[:3] == (21, 21, 0))
    assert world.driver.call(lambda: sockets_open(giver, taker)) == 0
    assert not giver.lines and len(taker.lines) == 21
    assert {field(line, "bytes_sent") for line in taker.lines} == {"1002", "8"}


@ENDS
def test_what_it_carries_is_all_that_goes_by_it_and_nothing_else(world: World, end: str) -> None:
    plane = of(world, end)
    apps = connected(world, 3)
    owners: set[object] = set()

    def carried() -> bool:
        every = [link for _, link in plane.pool.links] + [entry.link for entry in plane.inbound.links]
        assert len(every) == 1
        owners.update(relay.owner for relay in carried_by(every[0], plane.loop.backlogs))
        return owners == {live.owner for live in plane.registry}

    assert world.driver.call(carried) and len(owners) == len(apps)
    for app in apps:
        app.close()


def test_bytes_that_flow_are_not_lost_and_not_changed(world: World) -> None:
    """Bulk both ways in four tunnels, while either end changes hands in turn."""
    size = 8 << 20
    data = os.urandom(1 << 20) * (size >> 20)
    expected = hashlib.sha256(data).hexdigest()
    apps = connected(world, 4)
    found: list[str] = []

    def write(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    def read(sock: socket.socket) -> None:
        digest = hashlib.sha256()
        while chunk := sock.recv(50_000):
            digest.update(chunk)
        found.append(digest.hexdigest())

    work = [threading.Thread(target=each, args=(app,)) for app in apps for each in (write, read)]
    for app in apps:
        app.settimeout(60)
    for thread in work:
        thread.start()
    here, there = world.here, world.there
    for _ in range(4):
        taker = successor(world, world.here)
        move(world, here, taker)
        here = taker
        taker = successor(world, world.there)
        move(world, there, taker)
        there = taker
    for thread in work:
        thread.join()
    assert found == [expected] * 4
    for app in apps:
        app.close()
    both = size * 4 + 4
    world.driver.until(lambda: counts(*world.planes) == (8, 8, 0, 2 * both, 2 * both))
    assert world.driver.call(lambda: sockets_open(*world.planes)) == 0


@ENDS
def test_a_half_that_is_closed_stays_closed(world: World, end: str) -> None:
    with socket.create_server((SERVER, 8081)) as listener:
        app = world.connect(f"{SERVER}:8081")
        served, _ = listener.accept()
        served.settimeout(5)
        app.sendall(b"question")
        app.shutdown(socket.SHUT_WR)
        assert served.recv(8, socket.MSG_WAITALL) == b"question" and served.recv(1) == b""
        taker = successor(world, of(world, end))
        assert move(world, of(world, end), taker) == [f"{end} link"]
        served.sendall(b"answer")
        assert app.recv(6, socket.MSG_WAITALL) == b"answer"
        served.close()
        assert app.recv(1) == b""
        app.close()
    world.driver.until(lambda: bool(taker.lines))
    assert "error" not in taker.lines[0]


@ENDS
def test_bytes_that_wait_for_a_reader_go_along(world: World, end: str) -> None:
    """Both directions have ended, and the link has forgotten the tunnel: the relay still has bytes to deliver."""
    with socket.create_server((SERVER, 8081)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        app = world.connect(f"{SERVER}:8081")
        served, _ = listener.accept()
        served.settimeout(30)
        app.settimeout(30)
        giver = of(world, end)
        writer, reader = (app, served) if end == "server" else (served, app)
        reader.shutdown(socket.SHUT_WR)
        data = bytearray()
        waits = giver.loop.backlogs

        def has_all() -> bool:
            return counts(giver)[3 if end == "server" else 4] + waits.total_bytes == len(data)

        while not world.driver.call(lambda: waits.total_bytes):
            piece = os.urandom(1 << 16)
            writer.sendall(piece)
            data += piece
            world.driver.until(has_all)
        writer.shutdown(socket.SHUT_WR)
        world.driver.until(lambda: not any(link.open_streams for link in every_link(giver)))
        assert world.driver.call(lambda: giver.loop.backlogs.total_bytes) > 0
        taker = successor(world, giver)
        assert move(world, giver, taker) == [f"{end} link"]
        got = bytearray()
        while chunk := reader.recv(1 << 16):
            got += chunk
        assert got == data
        writer.close()
        reader.close()
    world.driver.until(lambda: bool(taker.lines))
    assert "error" not in taker.lines[0]
    assert not world.driver.call(lambda: taker.loop.backlogs.total_bytes)


def every_link(plane: DataPath) -> list[TunnelLink]:
    return [link for _, link in plane.pool.links] + [entry.link for entry in plane.inbound.links]


def test_a_policy_that_comes_between_cuts_its_tunnels_and_no_others(world: World) -> None:
    apps = connected(world, 3)
    taker = successor(world, world.there)

    def meanwhile() -> None:
        for app in apps:
            app.sendall(b"after the verdict")
        taker.store.apply(Batch(authorizations=(("apps/no-client", NO_CLIENT),)))

    move(world, world.there, taker, meanwhile)
    assert all(ended(app) for app in apps)
    world.driver.until(lambda: len(taker.lines) == 3 and len(world.here.lines) == 3)
    assert all("POLICY_CHANGED" in line and "apps/no-client" in line for line in taker.lines)
    assert {field(line, "bytes_recv") for line in taker.lines} == {"1"}, "what was sent after it went nowhere"
    assert world.driver.call(lambda: counts(world.there, taker)) == (3, 3, 3, 3, 3)
    assert all("policy" in line for line in world.here.lines), "the other end is told why"
    assert world.driver.call(lambda: (len(taker.registry), links(taker))) == (0, 1), (
        "the link itself may stay"
    )


@ENDS
def test_a_pod_that_left_meanwhile_takes_its_connection_along(world: World, end: str) -> None:
    apps = connected(world, 2)
    taker = successor(world, of(world, end))
    move(world, of(world, end), taker, lambda: taker.pods.replace(()))
    assert all(ended(app) for app in apps)
    world.driver.until(lambda: len(taker.lines) == 2)
    assert all("POD_REMOVED" in line for line in taker.lines)
    assert world.driver.call(lambda: (len(taker.registry), links(taker))) == (0, 0)


@ENDS
def test_what_nobody_took_goes_on_where_it_was(world: World, end: str) -> None:
    apps = connected(world, 3)
    giver, taker = of(world, end), successor(world, of(world, end))
    held = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert move(world, giver, taker, end=Handing.no) == [f"{end} link"]
        assert all(echoed(app, b"still") for app in apps)
    assert len(os.listdir("/proc/self/fd")) == held
    assert world.driver.call(lambda: (links(giver), links(taker), len(taker.registry))) == (1, 0, 0)
    assert all(exchange(app, b"y") == b"y" for app in apps)
    world.driver.until(lambda: counts(giver, taker)[:3] == (3, 3, 0))


@pytest.mark.parametrize("world", [{"pool_idle_s": "100"}], indirect=True)
def test_an_unused_connection_is_as_long_unused_as_it_was(world: World) -> None:
    assert exchange(world.connect()) == b"hello"
    world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))
    world.driver.skew_s += 60.0
    taker = successor(world, world.here, pool_idle_s="100")
    assert move(world, world.here, taker) == ["client link"]
    assert world.driver.call(lambda: links(taker)) == 1
    world.driver.skew_s += 50.0
    world.driver.until(lambda: not links(taker) and not links(world.there))


@pytest.mark.parametrize("world", [{"pool_idle_s": "100"}], indirect=True)
def test_one_that_was_used_since_is_unused_from_then_on(world: World) -> None:
    assert exchange(world.connect()) == b"hello"
    world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))
    world.driver.skew_s += 60.0
    taker = successor(world, world.here, pool_idle_s="100")
    move(world, world.here, taker)
    assert exchange(from_pod(world, taker)) == b"hello"
    world.driver.until(lambda: not len(taker.registry) and not len(world.there.registry))
    world.driver.skew_s += 50.0
    world.driver.call(lambda: None)
    assert exchange(from_pod(world, taker)) == b"hello"
    assert world.driver.call(lambda: links(taker)) == 1
    assert world.there.tallies.of(parse_ip(SERVER)).handshakes_done == 1


PATIENT = {"connect_timeout_s": "20"}
"""However busy the machine is: a SYN that nobody answered is sent again after one second, three, and seven."""


@pytest.mark.parametrize("world", [PATIENT], indirect=True)
@ENDS
def test_who_is_not_answered_yet_waits_on_and_is_answered(world: World, end: str) -> None:
    """The application takes nobody: the CONNECT is on its way at one end, and the dial at the other."""
    before = connected(world, 1)
    giver = of(world, end)
    with filled(SERVER, 8082) as (listener, make_room):
        app = world.connect(f"{SERVER}:8082")
        world.driver.until(lambda: dialling(world.there) == 1)
        taker = successor(world, giver, **PATIENT)
        assert move(world, giver, taker) == [f"{end} link"]
        assert world.driver.call(lambda: (len(giver.registry), len(taker.registry))) == (0, 2)
        make_room()
        app.settimeout(30)
        served = accepted_from(listener)
        served.sendall(b"here I am")
        assert app.recv(9, socket.MSG_WAITALL) == b"here I am"
        app.close()
        served.close()
    assert exchange(before[0], b"y") == b"y"
    world.driver.until(lambda: counts(giver, taker)[:3] == (2, 2, 0))


@pytest.mark.parametrize("world", [PATIENT], indirect=True)
@ENDS
def test_its_time_goes_on_where_it_was(world: World, end: str) -> None:
    connected(world, 1)[0].close()
    giver = of(world, end)
    with filled(SERVER, 8082):
        app = world.connect(f"{SERVER}:8082")
        world.driver.until(lambda: dialling(world.there) == 1)
        taker = successor(world, giver, **PATIENT)
        world.driver.skew_s += 15.0
        assert move(world, giver, taker) == [f"{end} link"]
        world.driver.skew_s += 10.0  # of twenty seconds for a dial
        assert ended(app)
    world.driver.until(lambda: bool(taker.lines))
    assert ("CONNECT_TIMEOUT" in taker.lines[-1]) == (end == "server")
    assert "error" in taker.lines[-1]


@pytest.mark.parametrize("world", [PATIENT], indirect=True)
def test_how_long_a_peer_was_asked_counts_from_the_asking(world: World) -> None:
    connected(world, 1)[0].close()
    with filled(SERVER, 8082):
        app = world.connect(f"{SERVER}:8082")
        world.driver.until(lambda: dialling(world.there) == 1)
        taker = successor(world, world.here)  # which waits no longer than 14 s for an answer
        world.driver.skew_s += 10.0
        assert move(world, world.here, taker) == ["client link"]
        world.driver.skew_s += 5.0
        assert ended(app)
    world.driver.until(lambda: bool(taker.lines))
    assert "has not answered CONNECT in 15 s" in taker.lines[-1]


@pytest.mark.parametrize("world", [PATIENT], indirect=True)
def test_a_policy_that_comes_while_it_is_dialled_has_its_say(world: World) -> None:
    connected(world, 1)[0].close()
    with filled(SERVER, 8082):
        app = world.connect(f"{SERVER}:8082")
        world.driver.until(lambda: dialling(world.there) == 1)
        taker = successor(world, world.there, **PATIENT)
        batch = Batch(authorizations=(("apps/no-client", NO_CLIENT),))
        move(world, world.there, taker, lambda: taker.store.apply(batch))
        assert ended(app)
        assert world.driver.call(lambda: dialling(taker)) == 0
    world.driver.until(lambda: bool(world.here.lines))
    assert "401" in world.here.lines[-1]
    assert "apps/no-client" in taker.lines[-1]


@pytest.mark.parametrize("world", [PATIENT], indirect=True)
def test_who_waits_for_a_connection_to_be_made_has_one_made_by_the_next(world: World) -> None:
    away = mesh.workload("away", ours("4.4"), service_account="away")
    world.driver.call(lambda: world.here.know(away))
    with filled(ours("4.4"), 15008):
        apps = [world.connect(f"{ours('4.4')}:8080") for _ in range(3)]
        world.driver.until(lambda: len(world.here.registry) == 3)
        taker = successor(world, world.here, **PATIENT)
        assert move(world, world.here, taker) == ["asking"] * 3
        # Nobody waits here any more: what was being made for them is not.
        assert world.driver.call(lambda: (len(world.here.registry), world.here.pool._groups)) == (0, {})
        assert world.driver.call(lambda: (len(taker.registry), len(taker.pool._groups))) == (3, 1)
        world.driver.skew_s += 25.0
        assert all(ended(app) for app in apps)
    world.driver.until(lambda: len(taker.lines) == 3)
    assert all("HBONE_TIMEOUT" in line and 'dst.workload="away"' in line for line in taker.lines)
    assert world.driver.call(lambda: counts(world.here, taker)) == (3, 3, 3, 0, 0)


def test_a_peer_of_which_the_unit_says_otherwise_is_refused(world: World) -> None:
    """What policy judges is what the certificate of the connection says, whatever stands beside it."""
    apps = connected(world, 1)
    taker = successor(world, world.there)

    def work() -> None:
        (movable,) = movables(world.there)
        unit, fds = movable.freeze()
        wire = encode(unit)
        for told, other in ((b"sa/client", b"sa/friend"), (CLIENT.encode(), SERVER.encode())):
            forged = decode(wire)
            facts = forged.fields["relays"][0]["standing"]["live"]["facts"]
            name = "identity" if told.startswith(b"sa") else "source"
            facts[name] = facts[name].replace(told.decode(), other.decode())
            with pytest.raises(BadUnit, match="somebody else"):
                thaw(taker, forged, [os.dup(fd) for fd in fds])
        movable.take_back()

    world.driver.call(work)
    assert exchange(apps[0], b"y") == b"y"
    assert world.driver.call(lambda: (links(taker), len(taker.registry))) == (0, 0)


def test_what_cannot_even_be_taken_back_ends_and_is_counted_so(world: World) -> None:
    """A defect, and nothing is left open: neither a socket nor a figure."""
    apps = connected(world, 2)
    held = len(os.listdir("/proc/self/fd"))

    def work() -> None:
        (movable,) = movables(world.there)
        unit, _ = movable.freeze()
        unit.fields["peer"] = "nobody"
        movable.take_back()

    world.driver.call(work)
    assert all(ended(app) for app in apps)
    assert world.driver.call(lambda: counts(world.there)) == (2, 2, 2, 2, 2)
    assert world.driver.call(lambda: sockets_open(world.there)) == 0
    assert len(world.there.lines) == 2 and all("INTERNAL" in line for line in world.there.lines)
    world.driver.until(lambda: not links(world.here))
    assert len(os.listdir("/proc/self/fd")) < held
