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
from agent.proxy.departures import LOOK_S, STALE_S, STUCK_S, Departure, Departures
from agent.proxy.pool_key import Headers, PoolKey
from tests.support import mesh
from tests.support.loopback import ours
from tests.support.pool import HEAD, key
from tests.support.two_nodes import SERVER, World, exchange


class Traveller:
    """Whose connection it is."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.error: OSError | None = None

    def connected(self, sock: socket.socket) -> None:
        self.sock = sock

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self.error = error


class Station:
    """Three places, one of them for peers that are away; dials are completed by hand, and the clock is the test's.

    A connection is named by the last numbers of the addresses of pod and peer.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.crashes: list[BaseException] = []
        self.loop = Loop(lambda: self.now_s, lambda error, fd: self.crashes.append(error))
        self._sockets = SideSockets(None)
        self._dialler = Dialler(self.loop, self._sockets, lambda: random.randrange(40000, 60000), 10.0)
        self.departures = Departures(self.loop, self, places=3, probes=1)
        self.dialled: list[str] = []
        self.owners: dict[str, DialOwner] = {}
        self.travellers: dict[str, Traveller] = {}
        self.all: dict[str, Departure] = {}
        self.socks: list[socket.socket] = []

    def dial(self, key: PoolKey, owner: DialOwner) -> Dial:
        name = f"{key.client_ip.packed[-1]}>{key.target.ip.packed[-1]}"
        self.dialled.append(name)
        self.owners[name] = owner
        return Dial(self._dialler, key.target, None, owner)

    def start(self, *names: str) -> None:
        for name in names:
            pod, peer = name.split(">")
            self.travellers[name] = owner = Traveller()
            one = Departure(self.departures, key(f"10.0.0.{pod}", f"10.1.0.{peer}:15008"), owner)
            self.all[name] = one
            one.start()

    def connect(self, name: str) -> socket.socket:
        """The dial is answered; the peer's end."""
        near, far = socket.socketpair()
        near.setblocking(False)
        self.socks += [near, far]
        self.owners[name].connected(near)
        self.settle()
        return far

    def fail(self, name: str) -> None:
        self.owners[name].failed(key().target, TimeoutError())
        self.over(name)

    def over(self, *names: str) -> None:
        for name in names:
            self.all[name].over()
        self.settle()

    def settle(self) -> None:
        for _ in range(5):
            self.loop.turn()
        assert not self.crashes, self.crashes

    def look(self) -> list[str]:
        """The next one; who was dialled since then."""
        before = len(self.dialled)
        self.now_s += LOOK_S
        self.settle()
        return self.dialled[before:]

    def may_say_hello(self, name: str) -> bool:
        return self.travellers[name].sock is not None


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station()
    yield made
    made.loop.close()
    for sock in made.socks:
        sock.close()


def test_so_many_are_dialled_and_the_next_one_when_one_is_over(station: Station) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5")
    assert station.dialled == ["1>1", "1>2", "1>3"] and len(station.departures) == 2
    station.connect("1>2")
    assert station.may_say_hello("1>2") and len(station.dialled) == 3, "a handshake has its place still"
    station.over("1>2")
    assert station.dialled[3:] == ["1>4"]
    station.fail("1>1")
    station.over("1>1")
    assert station.dialled[4:] == ["1>5"] and not len(station.departures)
    assert isinstance(station.travellers["1>1"].error, TimeoutError)


def test_a_pod_with_many_delays_another_by_one(station: Station) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5", "1>6")
    station.start("2>7", "2>8")
    station.over("1>1", "1>2", "1>3")
    assert station.dialled[3:] == ["1>4", "2>7", "1>5"]
    station.over("1>4", "1>5", "2>7")
    assert station.dialled[6:] == ["2>8", "1>6"]


def test_who_leaves_the_line_is_never_dialled(station: Station) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5")
    station.over("1>4")
    station.over("1>1")
    assert station.dialled[3:] == ["1>5"]
    # In the moment between the place and the dial.
    station.start("1>6")
    station.all["1>2"].over()
    station.all["1>6"].over()
    station.settle()
    assert len(station.dialled) == 4


def test_a_dial_without_an_answer_keeps_its_place_until_the_second_look(station: Station) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5", "1>6")
    station.connect("1>1")
    assert station.look() == []
    station.over("1>1")
    assert station.look() == ["1>5", "1>6"] and station.dialled[3] == "1>4"
    station.over("1>2")
    assert len(station.dialled) == 6, "it had no place to give"


def test_handshakes_keep_their_places_unless_nobody_gets_on_for_long(station: Station) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5", "1>6", "1>7")
    for peer in (1, 2, 3):
        station.connect(f"1>{peer}")
    station.now_s += STUCK_S - 2 * LOOK_S
    assert station.look() == [] and len(station.dialled) == 3, "a busy peer may take so long"
    assert station.look() == ["1>4", "1>5", "1>6"], "all three are silent since"


def test_a_peer_that_is_away_is_dialled_by_one_at_a_time_and_after_all_others(station: Station) -> None:
    station.start("1>9", "2>9", "3>9", "4>9", "5>9", "6>9")
    assert station.look() == ["4>9"], "a probe: there are places for two more, and not for those"
    station.start("1>1", "7>9", "1>2", "1>3")
    assert station.dialled[4:] == ["1>1", "1>2"]
    station.over("1>1")
    assert station.dialled[6:] == ["1>3"]
    station.connect("1>2")
    station.fail("1>9")
    assert station.look() == []
    station.connect("1>3")
    assert station.look() == ["5>9"], "an end of one of the dials says nothing new"
    station.connect("5>9")
    assert station.dialled[8:] == [], "it is back, and the three places are taken"
    station.over("5>9", "1>2", "1>3")
    assert station.dialled[8:] == ["6>9", "7>9"]


def test_a_peer_of_which_nobody_wants_anything_any_more_is_forgotten(station: Station) -> None:
    station.start("1>9", "2>9", "3>9", "4>9")
    station.look()
    for pod in (1, 2, 3, 4):
        station.fail(f"{pod}>9")
    station.start("1>9", "2>9", "3>9")
    assert station.dialled[4:] == ["1>9", "2>9", "3>9"] and not station.departures._away


def test_who_lost_its_place_says_hello_when_it_has_another_first_of_its_pod(station: Station) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5", "1>6", "1>7")
    assert station.look() == ["1>4", "1>5", "1>6"]
    station.connect("1>2")
    assert not station.may_say_hello("1>2")
    station.over("1>4")
    assert station.may_say_hello("1>2") and len(station.dialled) == 6
    station.over("1>2")
    assert station.dialled[6:] == ["1>7"]


@pytest.mark.parametrize("has_left", [True, False])
def test_a_peer_that_was_kept_waiting_is_dialled_again(station: Station, has_left: bool) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5", "1>6", "1>7")
    station.look()
    far = station.connect("1>2")
    if has_left:
        far.close()
    else:
        station.now_s += STALE_S
    station.over("1>4")
    assert not station.may_say_hello("1>2") and station.dialled[6] == "1>2"
    station.connect("1>2")
    assert station.may_say_hello("1>2"), "it has its place this time"


def test_who_is_connected_and_waits_may_leave_too(station: Station) -> None:
    station.start("1>1", "1>2", "1>3", "1>4", "1>5", "1>6", "1>7")
    station.look()
    far = station.connect("1>2")
    station.over("1>2")
    assert far.recv(1) == b"", "closed"
    station.over("1>4")
    assert not station.may_say_hello("1>2") and station.dialled[6:] == ["1>7"]


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
