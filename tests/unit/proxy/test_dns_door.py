"""Where captured DNS arrives: nothing is loaded before a pod has it, and sockets go from worker to worker."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.net.accept import OnAccept
from agent.net.loop import Loop
from agent.proxy.dns_door import LATE_ANSWERS_S, DnsDoor
from tests.support.certs import TestCA
from tests.support.datapath import DataPath

POD, OTHER = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")
SERVER = SocketAddress(parse_ip("10.96.0.10"), 53)


class Played:
    """What answers, noting what it is asked."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def door(self, sock: socket.socket) -> PlayedDoor:
        return PlayedDoor(self.told, sock)

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        self.told.append(("accepted", peer.ip))

    def forget(self) -> None:
        self.told.append("forget")

    def samples(self) -> Iterator[Any]:
        yield from ()


class PlayedDoor:
    def __init__(self, told: list[Any], sock: socket.socket) -> None:
        self.told, self.sock = told, sock

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        self.told.append("stop")

    def close(self) -> None:
        self.told.append("close")
        self.sock.close()


class Scene:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.loop = Loop(lambda: self.now_s, lambda error, _: pytest.fail(str(error)))
        self.resolver = Played()
        self.loads = 0
        self.replaced = ""
        self.looks = 0
        self.door = DnsDoor(self.loop, self._may_load, self._load)
        self.relayed: list[Any] = []
        self.handler: OnAccept = lambda sock, peer, local: self.relayed.append((peer.ip, local.port))
        self.door.stand_before(self)

    def _may_load(self) -> None:
        self.looks += 1
        if self.replaced:
            raise OSError(self.replaced)

    def _load(self) -> Played:
        self.loads += 1
        return self.resolver

    def connect(self, client: Any, target: SocketAddress = SERVER) -> None:
        self.handler(None, SocketAddress(client, 40000), target)  # type: ignore[arg-type]


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.loop.close()


def test_nothing_is_loaded_before_a_pod_has_it(scene: Scene) -> None:
    handler = scene.handler
    scene.door.serve(0, socket.socket(type=socket.SOCK_DGRAM))
    scene.door.capture([])
    scene.connect(POD)
    scene.door.forget()
    assert (scene.loads, scene.relayed, list(scene.door.samples())) == (0, [(POD, 53)], [])
    assert scene.handler is handler, "nor does anything look at connections"
    scene.door.capture([POD])
    scene.door.capture([POD, OTHER])
    assert (scene.loads, scene.resolver.told) == (1, ["start"])
    scene.door.release(0)
    scene.now_s = LATE_ANSWERS_S
    scene.loop.turn()


def test_nothing_of_another_build_is_loaded_and_it_is_said_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.replaced = "the code was replaced"
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        scene.door.serve(0, sock)
        for _ in range(2):
            scene.door.capture([POD])
        scene.connect(POD)
    assert (scene.looks, scene.loads, scene.relayed, scene.resolver.told) == (1, 0, [(POD, 53)], [])
    assert [each.message for each in caplog.records] == [
        "captured DNS is not answered: the code was replaced"
    ]


@pytest.mark.parametrize("captures", [True, False])
def test_where_every_pods_queries_come_what_answers_is_there_from_the_start(captures: bool) -> None:
    """What lies on the disk when the first pod comes may be another build."""
    loop = Loop(time.monotonic, lambda error, _: pytest.fail(str(error)))
    plane = DataPath(loop, TestCA(), dns_capture=str(captures).lower())
    assert bool(list(plane.dns.samples())) == captures
    plane.close()
    loop.close()


def test_connections_to_name_servers_are_its_own_and_no_others(scene: Scene) -> None:
    scene.door.capture([POD])
    scene.connect(POD)
    scene.connect(OTHER)
    scene.connect(POD, SocketAddress(SERVER.ip, 80))
    assert scene.resolver.told == [("accepted", POD)]
    assert scene.relayed == [(OTHER, 53), (POD, 80)]
    scene.door.capture([])
    scene.connect(POD)
    assert scene.relayed[-1] == (POD, 53), "the pod has its own way again"


def test_a_listener_that_comes_later_is_looked_at_too(scene: Scene) -> None:
    scene.door.capture([POD])
    later = Scene()
    scene.door.stand_before(later)
    later.connect(POD)
    later.connect(OTHER)
    assert (scene.resolver.told, later.relayed) == ([("accepted", POD)], [(OTHER, 53)])
    later.loop.close()


def test_what_was_read_is_answered_after_somebody_else_reads(scene: Scene) -> None:
    scene.door.capture([POD])
    sock = socket.socket(type=socket.SOCK_DGRAM)
    scene.door.serve(0, sock)
    scene.door.release(0)
    scene.loop.turn()
    assert scene.resolver.told == ["start", "stop"] and sock.fileno() >= 0
    scene.now_s = LATE_ANSWERS_S
    scene.loop.turn()
    assert scene.resolver.told == ["start", "stop", "close"]
    scene.door.release(7)


def test_a_socket_that_nobody_read_is_closed_at_once(scene: Scene) -> None:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    scene.door.serve(0, sock)
    scene.door.release(0)
    assert sock.fileno() < 0
