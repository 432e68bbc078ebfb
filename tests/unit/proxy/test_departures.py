"""Connections on their way to peers: how many at once, whose is next, and what silent peers change in that."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.model.outcome import Outcome, Refusal
from agent.net.dial import Dial, Dialler, DialOwner
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.net.tunnel import Tunnel
from agent.proxy.departures import RELIEF_S, Departure, Departures
from agent.proxy.pool_key import Headers, PoolKey
from tests.support import mesh
from tests.support.loopback import ours
from tests.support.pool import HEAD, key
from tests.support.two_nodes import SERVER, World, exchange


class Traveller:
    """Whose connection it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sock: socket.socket | None = None
        self.error: OSError | None = None

    def connected(self, sock: socket.socket) -> None:
        self.sock = sock

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self.error = error


class Station:
    """Three places; dials are completed by hand, and the clock is the test's."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.crashes: list[BaseException] = []
        self.loop = Loop(lambda: self.now_s, lambda error, fd: self.crashes.append(error))
        self._sockets = SideSockets(None)
        self._dialler = Dialler(self.loop, self._sockets, lambda: random.randrange(40000, 60000), 10.0)
        self.departures = Departures(self.loop, self, places=3)
        self.dialled: list[PoolKey] = []
        self.owners: dict[str, DialOwner] = {}
        self.travellers: dict[str, Traveller] = {}
        self.all: dict[str, Departure] = {}
        self.socks: list[socket.socket] = []

    def dial(self, key: PoolKey, owner: DialOwner) -> Dial:
        self.dialled.append(key)
        self.owners[str(key.target.ip)] = owner
        return Dial(self._dialler, key.target, None, owner)

    def start(self, pod: str, *peers: int) -> None:
        for peer in peers:
            self.travellers[f"10.1.0.{peer}"] = owner = Traveller(f"10.1.0.{peer}")
            one = Departure(self.departures, key(pod, f"10.1.0.{peer}:15008"), owner)
            self.all[f"10.1.0.{peer}"] = one
            one.start()

    def connect(self, peer: int) -> socket.socket:
        """The dial to it is answered; the peer's end."""
        near, far = socket.socketpair()
        near.setblocking(False)
        self.socks += [near, far]
        self.owners[f"10.1.0.{peer}"].connected(near)
        self.settle()
        return far

    def over(self, *peers: int) -> None:
        for peer in peers:
            self.all[f"10.1.0.{peer}"].over()
        self.settle()

    def settle(self) -> None:
        for _ in range(5):
            self.loop.turn()
        assert not self.crashes, self.crashes

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.settle()

    @property
    def order(self) -> list[int]:
        """Who was dialled, by the last number of the peer's address."""
        return [key.target.ip.packed[-1] for key in self.dialled]

    def may_say_hello(self, peer: int) -> bool:
        return self.travellers[f"10.1.0.{peer}"].sock is not None


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station()
    yield made
    made.loop.close()
    for sock in made.socks:
        sock.close()


def test_so_many_are_dialled_and_the_next_one_when_one_is_over(station: Station) -> None:
    station.start("10.0.0.1", 1, 2, 3, 4, 5)
    assert station.order == [1, 2, 3] and len(station.departures) == 2
    station.connect(2)
    assert station.may_say_hello(2) and station.order == [1, 2, 3], "a handshake has its place still"
    station.over(2)
    assert station.order == [1, 2, 3, 4]
    station.owners["10.1.0.1"].failed(key().target, TimeoutError())
    station.over(1, 1)
    assert station.order == [1, 2, 3, 4, 5] and not len(station.departures)
    assert isinstance(station.travellers["10.1.0.1"].error, TimeoutError)


def test_a_pod_with_many_delays_another_by_one(station: Station) -> None:
    station.start("10.0.0.1", 1, 2, 3, 4, 5, 6)
    station.start("10.0.0.2", 7, 8)
    station.over(1, 2, 3)
    assert station.order == [1, 2, 3, 4, 7, 5]
    station.over(4, 5, 7)
    assert station.order == [1, 2, 3, 4, 7, 5, 8, 6]


def test_who_leaves_the_line_is_never_dialled(station: Station) -> None:
    station.start("10.0.0.1", 1, 2, 3, 4, 5)
    station.over(4)
    station.over(1)
    assert station.order == [1, 2, 3, 5]
    # In the moment between the place and the dial.
    station.start("10.0.0.1", 6)
    station.all["10.1.0.2"].over()
    station.all["10.1.0.6"].over()
    station.settle()
    assert station.order == [1, 2, 3, 5]


def test_silent_peers_keep_their_places_only_while_somebody_gets_on(station: Station) -> None:
    station.start("10.0.0.1", *range(1, 9))
    station.wait(RELIEF_S / 2)
    station.connect(1)
    station.wait(RELIEF_S)
    assert station.order == [1, 2, 3], "one of them has answered meanwhile"
    station.wait(RELIEF_S)
    assert station.order == [1, 2, 3, 4, 5, 6], "nobody has: all three go on without a place"
    station.over(1)
    assert len(station.dialled) == 6, "it had none to give"
    station.over(4)
    assert len(station.dialled) == 7


def test_who_lost_its_place_says_hello_when_it_has_another_first_of_its_pod(station: Station) -> None:
    station.start("10.0.0.1", *range(1, 9))
    station.wait(RELIEF_S)
    assert station.order == [1, 2, 3, 4, 5, 6]
    station.connect(2)
    assert not station.may_say_hello(2)
    station.over(4)
    assert station.may_say_hello(2) and len(station.dialled) == 6
    station.over(2)
    assert station.order[6:] == [7]


def test_a_peer_whose_patience_ends_meanwhile_is_dialled_again(station: Station) -> None:
    station.start("10.0.0.1", *range(1, 9))
    station.wait(RELIEF_S)
    station.connect(2).close()
    station.over(4)
    assert not station.may_say_hello(2) and station.order[6:] == [2]
    station.connect(2)
    assert station.may_say_hello(2), "it has its place this time"


def test_who_is_connected_and_waits_may_leave_too(station: Station) -> None:
    station.start("10.0.0.1", *range(1, 9))
    station.wait(RELIEF_S)
    far = station.connect(2)
    station.over(2)
    assert far.recv(1) == b"", "closed"
    station.over(4)
    assert not station.may_say_hello(2) and station.order[6:] == [7]


class Wants:
    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.tunnels: list[Tunnel] = []

    def opened(self, tunnel: Tunnel, headers: Headers) -> None:
        self.tunnels.append(tunnel)

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)


PAIRS = 40


@pytest.mark.parametrize("world", [{"handshake_timeout_s": "60", "connect_timeout_s": "60"}], indirect=True)
def test_of_handshakes_that_come_at_once_one_step_is_taken_in_each_round_and_traffic_between(
    world: World,
) -> None:
    """Counted are rounds of the loop: whatever a step costs, what is open has its turn before the next one."""
    live = world.connect()
    live.sendall(b"x")
    assert live.recv(1) == b"x"
    pool, loop, wants = world.here.pool, world.driver.loop, Wants()
    target = mesh.at(f"{SERVER}:15008")
    begun: list[int] = []
    is_done = False

    def look() -> None:
        links = [link for _, link in pool.links]
        owing = [link for link in links if link.tls._session is not None and link.tls._session.owes_hello]
        begun.append(len(links) - len(owing))
        if not is_done:
            loop.soon(look)

    def come() -> None:
        for n in range(PAIRS):
            pod = PoolKey(
                world.client.identity, (world.server.identity,), target, parse_ip(ours(f"3.{n + 1}"))
            )
            pool.open(pod, HEAD, wants)
        look()

    world.driver.call(come)
    world.driver.until(lambda: len([1 for _, link in pool.links if link.secured is not None]) == PAIRS + 1)
    is_done = True
    steps = [after - before for before, after in pairwise(begun)]
    assert sum(steps) == PAIRS and max(steps) == 1
    # Each pair took one handshake, and none was begun in vain.
    world.driver.until(lambda: len(wants.refusals) + len(wants.tunnels) == PAIRS)
    assert {refusal.outcome for refusal in wants.refusals} <= {Outcome.UPSTREAM_REFUSED}
    assert world.driver.call(lambda: world.there.tallies.of(target.ip).handshakes_done) == PAIRS + 1
    assert not world.driver.call(lambda: sum(world.there.tallies.faults.values()))
    live.sendall(b"y")
    assert live.recv(1) == b"y"
    assert exchange(live, b"") == b""
