"""What control tells a worker of its output: where it goes, and which lines are written."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from agent import channel
from tests.support.descriptors import open_descriptors
from tests.support.told_worker import ToldWorker, orders_of, same_file
from tests.support.two_nodes import SERVER, World, ended, exchange


def test_what_a_worker_prints_goes_where_the_next_agent_says(told: ToldWorker) -> None:
    before, log, after = os.pipe(), os.pipe(), os.pipe()
    told.orders = orders_of(told.plane, outputs=(before[1], log[1]))
    count = open_descriptors()
    told.tell(channel.Output(), [after[1], after[1]])
    assert same_file(before[1], after[1]) and same_file(log[1], after[1])
    assert open_descriptors() == count
    for fd in (*before, *log, *after):
        os.close(fd)


# -- levels


@pytest.fixture(autouse=True)
def overall_level() -> Iterator[None]:
    """Which is that of all tests."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def access_lines(world: World, told: ToldWorker, destination: str) -> list[str]:
    """Level and message of what one connection from the client leaves at the server's node."""
    world.there.lines.clear()
    world.here.lines.clear()
    exchange(world.connect(destination)) if "8080" in destination else ended(world.connect(destination))
    world.driver.until(lambda: bool(world.here.lines) and not len(world.there.registry))
    return [" ".join(line.split("\t")[1:4:2]) for line in world.there.lines]


def test_levels_of_the_access_log_are_changed_while_it_serves(told: ToldWorker, world: World) -> None:
    good, bad = f"{SERVER}:8080", f"{SERVER}:9999"
    done, failed = "info connection complete", "error connection complete"
    assert access_lines(world, told, good) == [done]
    for access, of_good, of_bad in (
        ("debug", ["debug connection opened", done], ["debug connection opened", failed]),
        ("warn", [], [failed]),
        ("off", [], []),
        ("info", [done], [failed]),
    ):
        told.tell(channel.LogLevels("info", [("access", access)]))
        assert access_lines(world, told, good) == of_good, access
        assert access_lines(world, told, bad) == of_bad, access
    told.tell(channel.LogLevels("info", []))


def test_levels_of_modules_are_changed_while_it_serves(told: ToldWorker) -> None:
    pool = logging.getLogger("agent.proxy.pool")
    told.tell(channel.LogLevels("warn", [("proxy", "debug")]))
    try:
        assert pool.isEnabledFor(logging.DEBUG) and not logging.getLogger("agent.net").isEnabledFor(
            logging.INFO
        )
    finally:
        told.tell(channel.LogLevels("info", []))
    assert not pool.isEnabledFor(logging.DEBUG)
