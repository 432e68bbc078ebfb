"""Limits of a pod, over two nodes with real TLS: who is refused, who is not, who waits; and where connections move."""

from __future__ import annotations

import dataclasses
import socket
import threading
from pathlib import Path

import pytest

from agent.model.limits import ConnectionLimit, Limits
from agent.model.policy import Action, Match
from agent.net.limit_table import STUCK, LimitTable
from agent.telemetry import families
from tests.support import mesh
from tests.support.datapath import DataPath, stream_pair
from tests.support.loopback import ours
from tests.support.moves import Handing, move, successor
from tests.support.two_nodes import CLIENT, SERVER, World, ended, exchange

OTHER = ours("1.2")
FRONT = "spiffe://cluster.local/ns/apps/sa/client"


def limited(world: World, *planes: DataPath, **limits: int) -> None:
    """The server's pod has these limits from now on."""
    said = (ConnectionLimit("ConnectionLimit apps/web", Limits(**limits)),) if limits else ()
    server = dataclasses.replace(world.server, limits=said)
    world.driver.call(lambda: [plane.know(server) for plane in planes or (world.there,)])


def open_one(world: World) -> socket.socket:
    app = world.connect()
    assert echoed(app)
    return app


def echoed(app: socket.socket, data: bytes = b"x") -> bool:
    app.sendall(data)
    got = bytearray()
    while len(got) < len(data):
        got += app.recv(1 << 16) or b"that was all of it"
    return got == data


def counted(*planes: DataPath) -> dict[str, float]:
    """ztun_limited by the limit."""
    found: dict[str, float] = {}
    for plane in planes:
        for name, labels, value in plane.metrics.figures.items():
            if name == families.LIMITED.name:
                assert labels[1:] == ["apps", "server"]
                found[labels[0]] = found.get(labels[0], 0) + value
    return found


def plain(world: World, source: str) -> socket.socket:
    application, captured = stream_pair(source)
    captured.setblocking(False)
    peer = mesh.at(f"{source}:{application.getsockname()[1]}")
    world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, mesh.at(f"{SERVER}:8080")))
    application.settimeout(5)
    return application


def other_client(world: World) -> socket.socket:
    other = mesh.workload("other", OTHER, service_account="other")

    def build() -> socket.socket:
        for plane in (world.here, world.there):
            plane.know(other)
        world.here.add_pod(other)
        return world.here.capture(OTHER, mesh.at(f"{SERVER}:8080"))

    app = world.driver.call(build)
    assert isinstance(app, socket.socket)
    app.settimeout(5)
    return app


def test_one_more_connection_is_refused_while_the_others_go_on(world: World) -> None:
    limited(world, connections=3)
    apps = [open_one(world) for _ in range(3)]
    assert ended(world.connect())
    assert all(echoed(app) for app in apps)
    with other_client(world) as other:
        assert echoed(other), "another identity has its own"
    with plain(world, ours("5.5")) as stranger:
        assert echoed(stranger), "so have those without one"
    world.driver.until(
        lambda: any("http status: 429 (a limit of the destination) from" in line for line in world.here.lines)
    )
    (line,) = [line for line in world.there.lines if "3 connections are open" in line]
    assert (
        f"{FRONT} to apps/server: 3 connections are open, as many as ConnectionLimit apps/web lets in" in line
    )
    assert counted(world.there) == {"connections": 1}
    apps.pop().close()
    world.driver.until(lambda: len(world.there.registry) == 2)
    apps.append(open_one(world))
    assert ended(world.connect())
    for app in apps:
        app.close()


def test_all_plaintext_is_one_client_and_is_reset(world: World) -> None:
    limited(world, connections=1)
    with plain(world, ours("5.5")) as first:
        assert echoed(first)
        with plain(world, ours("5.6")) as second, pytest.raises(ConnectionResetError):
            second.recv(1)
    said = "clients without an identity to apps/server: 1 connection is open, as many as"
    world.driver.until(lambda: any(said in line for line in world.there.lines))


def test_a_limit_of_none_is_told_as_what_it_is(world: World) -> None:
    limited(world, connections=0)
    assert ended(world.connect())
    said = f"{FRONT} to apps/server: ConnectionLimit apps/web lets nobody in"
    world.driver.until(lambda: any(said in line for line in world.there.lines))


def test_what_policy_denies_uses_up_nothing(world: World) -> None:
    limited(world, connections=1, new_per_second=1)
    deny = mesh.policy("all", Action.DENY, Match(destination_ports=(8080,)))
    world.put_policy("apps/all", deny)
    assert ended(world.connect())
    world.driver.call(lambda: world.there.store.apply(mesh.batch(removed=("apps/all",))))
    world.driver.call(lambda: None)
    assert counted(world.there) == {}


def test_new_connections_of_a_second(world: World) -> None:
    """Whatever becomes of them; in the next second there may be as many again."""
    limited(world, new_per_second=2)
    assert exchange(world.connect()) == exchange(world.connect()) == b"hello"
    assert ended(world.connect())
    assert counted(world.there) == {"new-connections-per-second": 1}
    world.driver.skew_s += 2.0
    assert exchange(world.connect()) == b"hello"
    limited(world, new_per_second=1)
    assert ended(world.connect())
    said = "1 connection came in the last second, as many as"
    world.driver.until(lambda: any(said in line for line in world.there.lines))


@pytest.mark.parametrize("path", ["hbone", "plain"])
def test_bytes_are_slowed_down_and_none_is_lost(path: str, world: World) -> None:
    limited(world, bytes_per_second=1_000_000)
    app = world.connect() if path == "hbone" else plain(world, ours("5.5"))
    data = bytes(range(256)) * 800
    began_s = world.driver.loop.now()
    writer = threading.Thread(target=app.sendall, args=(data,))
    writer.start()
    got = bytearray()
    while len(got) < len(data):
        got += app.recv(1 << 18)
    writer.join()
    app.close()
    assert bytes(got) == data
    took_s = world.driver.loop.now() - began_s
    assert 2 * len(data) <= 1_000_000 * (took_s + 0.0625), (
        "what the limit lets pass in that time, however long it was"
    )
    assert counted(world.there)["bytes-per-second"] > 0
    world.driver.until(lambda: not world.there.registry and not world.there.limiter._meters)
    assert not world.there.limiter._seats


def test_a_limit_that_comes_and_goes_holds_for_what_is_open(world: World) -> None:
    apps = [open_one(world) for _ in range(2)]
    limited(world, connections=2, bytes_per_second=1_000_000)
    assert ended(world.connect()), "those that were open count"
    assert all(echoed(app, bytes(100_000)) for app in apps)
    assert counted(world.there)["bytes-per-second"] > 0
    limited(world)
    apps.append(open_one(world))
    before = counted(world.there)["bytes-per-second"]
    assert echoed(apps[0], bytes(1 << 20))
    assert counted(world.there)["bytes-per-second"] == before
    for app in apps:
        app.close()


@pytest.mark.parametrize("ends", [Handing.go, Handing.no], ids=["taken", "taken back"])
def test_connections_that_move_stay_counted_and_paced(world: World, tmp_path: Path, ends: object) -> None:
    taker = successor(world, world.there)
    for plane in (world.there, taker):
        plane.limiter.path = tmp_path / "limits"
    limited(world, world.there, taker, connections=2, bytes_per_second=1_000_000)
    apps = [open_one(world), plain(world, ours("5.5"))]
    assert echoed(apps[1])
    key = next(iter(world.there.limiter._seats)).key
    watcher = LimitTable.opened(tmp_path / "limits")

    def is_counted() -> None:
        assert watcher.count(key) == 1, "while nobody has it"

    assert len(move(world, world.there, taker, is_counted, ends)) == 2  # type: ignore[arg-type]
    assert watcher.count(key) == 1
    watcher.close()
    heir = taker if ends is Handing.go else world.there
    before = counted(heir).get("bytes-per-second", 0)
    assert all(echoed(app, bytes(200_000)) for app in apps)
    assert counted(heir)["bytes-per-second"] > before
    for app in apps:
        app.close()
    world.driver.until(lambda: not heir.registry)
    assert not heir.limiter._seats and not world.there.limiter._seats


@pytest.mark.parametrize("world", [{"local_path": "handover"}], indirect=True)
def test_a_hand_over_inside_the_node_is_counted_and_paced_and_moves(world: World, tmp_path: Path) -> None:
    taker = successor(world, world.there, local_path="handover")
    for plane in (world.there, taker):
        plane.limiter.path = tmp_path / "limits"
    limited(world, world.there, taker, connections=1, bytes_per_second=1_000_000)

    def capture() -> socket.socket:
        return world.there.capture(CLIENT, mesh.at(f"{SERVER}:8080"))

    world.driver.call(
        lambda: [plane.add_pod(world.client, listening=False) for plane in (world.there, taker)]
    )
    first, second = (world.driver.call(capture) for _ in range(2))
    assert isinstance(first, socket.socket) and isinstance(second, socket.socket)
    first.settimeout(5)
    assert ended(second)
    assert echoed(first, bytes(100_000)) and counted(world.there)["bytes-per-second"] > 0
    assert move(world, world.there, taker) == ["relay"]
    assert echoed(first, bytes(100_000)) and counted(taker)["bytes-per-second"] > 0
    first.close()
    world.driver.until(lambda: not taker.registry and not taker.limiter._seats)


def test_a_removed_run_directory_forgets_nobody(world: World, tmp_path: Path) -> None:
    world.there.limiter.path = tmp_path / "limits"
    limited(world, connections=2)
    apps = [open_one(world)]
    (tmp_path / "limits").unlink()
    apps.append(open_one(world))
    assert ended(world.connect())
    other = LimitTable.opened(tmp_path / "limits")
    assert {other.count(seat.key) for seat in world.there.limiter._seats} == {2}, "others find it"
    other.close()
    for app in apps:
        app.close()


def test_who_admits_nobody_notices_a_removed_run_directory_too(world: World, tmp_path: Path) -> None:
    world.there.limiter.path = tmp_path / "limits"
    limited(world, connections=2, bytes_per_second=1_000_000)
    apps = [open_one(world) for _ in range(2)]
    (tmp_path / "limits").unlink()
    still = LimitTable.opened(tmp_path / "limits")
    assert still._lock()
    world.driver.skew_s += 1.1  # it looks, and cannot count at once
    world.driver.until(lambda: all(seat.row == STUCK for seat in world.there.limiter._seats))
    still._unlock()
    world.driver.skew_s += 1.1
    key = next(iter(world.there.limiter._seats)).key
    world.driver.until(lambda: still.count(key) == 2)
    before = counted(world.there).get("bytes-per-second", 0)
    assert all(echoed(app, bytes(100_000)) for app in apps)
    assert counted(world.there)["bytes-per-second"] > before, "by the new table"
    still.close()
    for app in apps:
        app.close()
    world.driver.until(lambda: not world.there.limiter._seats)
    world.driver.skew_s += 1.1
    world.driver.until(lambda: world.there.limiter._looks is None)


def test_where_nobody_can_count_nobody_is_let_in(world: World, tmp_path: Path) -> None:
    world.there.limiter.path = tmp_path / "missing" / "limits"
    limited(world, connections=2)
    assert ended(world.connect())
    world.driver.until(lambda: any("nobody can count" in line for line in world.there.lines))
    limited(world)
    assert exchange(world.connect()) == b"hello"


def test_a_worker_that_stands_still_with_the_table_holds_up_bytes_alone(world: World, tmp_path: Path) -> None:
    world.there.limiter.path = tmp_path / "limits"
    limited(world, connections=3, bytes_per_second=1_000_000)
    app = open_one(world)
    still = LimitTable.opened(tmp_path / "limits")
    assert still._lock()
    before = counted(world.there).get("bytes-per-second", 0)
    app.sendall(b"later")
    world.driver.until(lambda: counted(world.there).get("bytes-per-second", 0) > before + 2)
    assert ended(world.connect())
    world.driver.until(lambda: any("another worker stands still" in line for line in world.there.lines))
    assert counted(world.there)["uncounted"] == 1
    still._unlock()
    assert app.recv(5, socket.MSG_WAITALL) == b"later"
    still.close()
    app.close()
