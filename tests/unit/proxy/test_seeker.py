"""Destinations that the state lacks when they are dialled: waited for, asked for, and then refused or passed on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from agent import channel
from agent.channel import Message
from agent.dump.pods import PodFact, workload_state
from agent.model.service import Service
from agent.proxy import seeker
from agent.proxy.live_rows import connection_row
from tests.support import mesh
from tests.support.loopback import ours
from tests.support.told_worker import ToldWorker, orders_of
from tests.support.two_nodes import CLIENT, SERVER, VIP, World, ended, exchange

RANGE = f"{ours('0.0')}/16"
OUTSIDE = ours("7.7")


class Node:
    """Two nodes of which this one has not heard of the other; what it asks is in `asked`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[str] = []
        self.orders = orders_of(world.here)

        def build() -> None:
            world.there.know(world.client, world.server, world.web)
            world.here.know(world.client)
            world.here.add_pod(world.client)
            world.there.add_pod(world.server)

        world.driver.call(build)

    def carry_out(self, order: Message) -> None:
        sent = channel.decode(channel.encode(order)[channel.PREFIX.size :])
        self.world.driver.call(lambda: self.orders.carry_out(sent, (), self._heard) and None)

    def _heard(self, message: Message) -> None:
        assert isinstance(message, channel.Wanted)
        self.asked += message.names

    def until_waiting(self, count: int = 1) -> None:
        self.world.driver.until(lambda: len(self.world.here.seeker) == count)

    def born(self, *resources: object) -> None:
        """The control plane tells of them."""
        self.world.driver.call(lambda: self.world.here.know(*resources))

    def time_is_over(self) -> None:
        here = self.world.here.seeker
        for wait in [wait for waiting in here._waiting.values() for wait in waiting]:
            here.over(wait)

    def line(self) -> str:
        self.world.driver.until(lambda: bool(self.world.here.lines))
        return self.world.here.lines[0]


@contextlib.contextmanager
def node(**options: str) -> Iterator[Node]:
    world = World(**options)
    try:
        yield Node(world)
    finally:
        world.close()


def partial() -> contextlib.AbstractContextManager[Node]:
    return node(on_demand="true")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may come of time alone, unless it says so."""
    monkeypatch.setattr(seeker, "HOLD_S", 3600.0)


def test_a_pod_that_is_told_of_while_it_is_dialled_is_reached() -> None:
    with node(mesh_cidrs=RANGE) as at:
        app = at.world.connect()
        at.until_waiting()
        at.born(at.world.server)
        assert exchange(app) == b"hello"
        assert 'dst.identity="spiffe://cluster.local/ns/apps/sa/server"' in at.line(), "by mutual TLS"
        assert not at.asked, "a control plane that sends everything is asked for nothing"


def test_what_nobody_tells_of_is_refused_with_the_reason_and_then_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with node(mesh_cidrs=RANGE) as at:
        monkeypatch.setattr(seeker, "HOLD_S", 0.05)
        assert ended(at.world.connect())
        assert "but no workload or service has it" in at.line()
        monkeypatch.setattr(seeker, "HOLD_S", 3600.0)
        assert ended(at.world.connect()), "nobody waits again for what just was not there"
        assert len(at.world.here.seeker) == 0


def test_outside_of_the_mesh_nothing_is_waited_for() -> None:
    with node(mesh_cidrs="192.0.2.0/24") as at:
        assert exchange(at.world.connect()) == b"hello"


def test_one_question_is_asked_for_all_that_wait_and_its_answer_serves_them() -> None:
    with partial() as at:
        at.carry_out(channel.TakesQuestions())
        apps = [at.world.connect() for _ in range(3)]
        at.until_waiting(3)
        assert at.asked == [f"/{SERVER}"]
        at.born(at.world.server)
        at.carry_out(channel.Answered(at.asked))
        assert [exchange(app) for app in apps] == [b"hello"] * 3
        assert "sa/server" in at.line()


def test_what_the_control_plane_says_is_nobodys_is_passed_on() -> None:
    with partial() as at, socket.create_server((OUTSIDE, 8080)) as listener:
        at.carry_out(channel.TakesQuestions())
        app = at.world.connect(f"{OUTSIDE}:8080")
        at.until_waiting()
        at.carry_out(channel.Answered([f"/{OUTSIDE}"]))
        listener.settimeout(5)
        with app, listener.accept()[0]:
            pass
        assert at.asked == [f"/{OUTSIDE}"]


@pytest.mark.parametrize("is_asked", [True, False], ids=["no answer", "nobody to ask"])
def test_where_nobody_says_it_is_refused(monkeypatch: pytest.MonkeyPatch, is_asked: bool) -> None:
    """It may be a pod of the mesh: passing it on would be plaintext."""
    monkeypatch.setattr(seeker, "HOLD_S", 0.05)
    with partial() as at:
        if is_asked:
            at.carry_out(channel.TakesQuestions())
        assert ended(at.world.connect())
        assert f"the control plane did not say within 0.05 s who has /{SERVER}" in at.line()
        assert at.asked == [f"/{SERVER}"] * is_asked


def test_a_pod_that_the_control_plane_did_not_know_when_it_was_asked_is_reached_when_it_does() -> None:
    with node(on_demand="true", mesh_cidrs=RANGE) as at:
        at.carry_out(channel.TakesQuestions())
        app = at.world.connect()
        at.until_waiting()
        at.carry_out(channel.Answered(at.asked))
        at.until_waiting()
        at.born(at.world.server)
        assert exchange(app) == b"hello"


def test_in_a_mesh_range_what_the_control_plane_does_not_know_is_refused() -> None:
    with node(on_demand="true", mesh_cidrs=RANGE) as at:
        at.carry_out(channel.TakesQuestions())
        app = at.world.connect()
        at.until_waiting()
        at.carry_out(channel.Answered(at.asked))
        at.world.driver.call(at.time_is_over)
        assert ended(app)
        assert "but no workload or service has it" in at.line()


def test_the_waypoint_of_what_came_is_asked_for_next() -> None:
    waypoint = mesh.gateway(mesh.key("waypoint"))
    web: Service = mesh.service("web", VIP, waypoint=waypoint)
    with partial() as at:
        at.carry_out(channel.TakesQuestions())
        app = at.world.connect(f"{VIP}:80")
        at.until_waiting()
        at.born(web, at.world.server)
        at.world.driver.until(lambda: len(at.asked) == 2)
        assert at.asked == [f"/{VIP}", str(waypoint.destination)]
        at.carry_out(channel.Answered(at.asked))
        at.until_waiting()
        at.world.driver.call(at.time_is_over)
        assert ended(app), "it is nowhere, and going past it is no way"
        assert "waypoint" in at.line()


def test_a_client_that_gives_up_waits_no_longer() -> None:
    with node(mesh_cidrs=RANGE) as at:
        app = at.world.connect()
        at.until_waiting()
        app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        app.close()
        at.until_waiting(0)


def test_a_pod_that_leaves_takes_along_what_waits() -> None:
    with node(mesh_cidrs=RANGE) as at:
        app = at.world.connect()
        at.until_waiting()
        at.world.driver.call(lambda: at.world.here.close_pod(frozenset(at.world.client.addresses)))
        assert ended(app) and "the pod left the mesh" in at.line()
        assert len(at.world.here.seeker) == 0 and not len(at.world.here.registry)


def test_an_agent_that_stops_lets_what_waits_go_on_until_its_deadline() -> None:
    with node(mesh_cidrs=RANGE) as at:
        told = ToldWorker(at.world.driver, at.world.here)
        reached, left = at.world.connect(), at.world.connect(f"{ours('2.99')}:1")
        at.until_waiting(2)
        at.world.driver.call(lambda: told.drain.start(60.0))
        at.born(at.world.server)
        assert exchange(reached) == b"hello"
        at.until_waiting(1)
        assert not told.ended
        at.world.driver.skew_s = 61.0
        at.world.driver.until(lambda: told.ended == 1)
        assert ended(left)
        assert any("the agent stopped and its drain deadline" in line for line in at.world.here.lines)
        told.close()


def test_what_waits_is_listed_and_counts_as_a_connection() -> None:
    with node(mesh_cidrs=RANGE, max_connections="1") as at:
        app = at.world.connect()
        at.until_waiting()
        [row] = at.world.driver.call(lambda: [connection_row(live, None) for live in at.world.here.registry])
        assert (row["protocol"], row["original_dst"]) == ("WAITING", f"{SERVER}:8080")
        pod = PodFact("apps", "client", "Up")
        dumped = workload_state([pod], [{**row, "pod": "apps/client"}])
        assert "connections" not in dumped["apps/client"], "ztunnel has no such word"
        assert ended(at.world.connect()), "there is no room for another"
        at.born(at.world.server)
        assert exchange(app) == b"hello", "it has had its place all the time"
        at.world.driver.until(lambda: not len(at.world.here.registry))


def test_one_client_cannot_take_all_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeker, "WAITING_OF_CLIENT", 2)
    with node(mesh_cidrs=RANGE) as at:
        apps = [at.world.connect() for _ in range(3)]
        assert ended(apps[2])
        assert f"too many connections wait to hear who has /{SERVER}" in at.line()
        at.born(at.world.server)
        assert [exchange(app) for app in apps[:2]] == [b"hello"] * 2
        assert at.world.client.addresses[0] == mesh.at(f"{CLIENT}:1").ip
