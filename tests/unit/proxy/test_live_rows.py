"""What a worker answers of what it carries, over a real channel: connections, tunnels, figures."""

from __future__ import annotations

import json
from typing import Any

from agent import channel
from agent.model.steps import PACE
from tests.support.told_worker import ToldWorker
from tests.support.two_nodes import CLIENT, SERVER, VIP, World


def answered(told: ToldWorker, number: int | None = None) -> list[dict[str, Any]]:
    answer, _ = told.hear(channel.Answer)
    assert number is None or answer.number == number
    rows = json.loads(answer.value)
    assert isinstance(rows, list)
    return rows


def test_many_connections_are_listed_in_steps(told: ToldWorker, world: World) -> None:
    """A worker with as many as it may have serves in between."""
    apps = [world.connect() for _ in range(PACE + 1)]
    world.driver.until(lambda: len(world.there.registry) == len(apps))
    asked = channel.Ask(9, "connections")
    heard: list[channel.Message] = []
    steps = told.orders.carry_out(asked, [], heard.append)
    assert steps is not None and next(steps, "done") is None and not heard
    assert next(steps, "done") == "done"
    (answer,) = heard
    assert isinstance(answer, channel.Answer) and len(json.loads(answer.value)) == len(apps)
    for app in apps:
        app.close()


def test_a_connection_names_the_service_that_was_asked_for(told: ToldWorker, world: World) -> None:
    """Not one that has the pod too, and was not asked for: metrics guess, this does not."""
    for asked, service in ((f"{VIP}:80", world.web.hostname), (f"{SERVER}:8080", "")):
        app = world.connect(asked)
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        told.tell(channel.Ask(7, "connections"))
        (row,) = answered(told)
        assert row["service"] == service
        app.close()
        world.driver.until(lambda: not len(world.there.registry))


def test_connections_and_tunnels_are_listed_for_people(told: ToldWorker, world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    told.tell(channel.Ask(7, "connections"))
    (row,) = answered(told, 7)
    assert (row["pod"], row["direction"], row["protocol"]) == ("apps/server", "inbound", "HBONE")
    assert row["client"] == str(world.client.identity)
    assert row["actual_dst"] == f"{SERVER}:8080" and row["src"].startswith(f"{CLIENT}:")
    told.tell(channel.Ask(8, "tunnels"))
    (row,) = answered(told)
    assert (row["direction"], row["tunnels"]) == ("inbound", 1)
    assert (row["identity"], row["peer"]) == (str(world.server.identity), str(world.client.identity))
    app.close()


def test_figures_count_what_is_carried_right_now(told: ToldWorker, world: World) -> None:
    app = world.connect()
    app.sendall(b"12345")
    assert app.recv(5) == b"12345"
    stats = world.driver.call(told.orders.stats)
    assert isinstance(stats, channel.Stats) and stats.connections == 1
    assert [values[3:] for _, values in stats.metrics["tcp"]] == [[5, 5]]
    app.close()
