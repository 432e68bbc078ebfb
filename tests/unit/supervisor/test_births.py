"""The nursery of workers: there while workers are wanted, gone when none is, made again for the next."""

from __future__ import annotations

import asyncio
import os

import pytest

from agent.supervisor import births as births_module
from agent.supervisor.births import Births
from redirect.nursery import Nursery
from redirect.spawn import Cause

FAILING = "tests.support.failing_child"


def test_it_ends_when_nobody_is_wanted_and_the_next_birth_makes_it_again() -> None:
    async def live() -> None:
        nursery = Nursery.started(FAILING)
        births = Births(nursery, idle_s=0.0)
        try:
            for _ in range(2):
                child = births.start(FAILING, ["end"])
                pid = nursery.pid
                assert pid is not None
                pidfd = os.pidfd_open(pid)
                over = asyncio.Event()
                asyncio.get_running_loop().add_reader(pidfd, over.set)
                await over.wait()
                asyncio.get_running_loop().remove_reader(pidfd)
                os.close(pidfd)
                assert nursery.pid is None
                assert child.failure().cause is Cause.ENDED
                child.close()
        finally:
            births.close()

    asyncio.run(live())


def test_a_birth_puts_off_its_end() -> None:
    async def live() -> None:
        nursery = Nursery.started(FAILING)
        births = Births(nursery, idle_s=3600.0)
        try:
            births.rest()
            child = births.start(FAILING, ["end"])
            assert child.failure().cause is Cause.ENDED and nursery.pid is not None
            child.close()
        finally:
            births.close()
        assert nursery.pid is None

    asyncio.run(live())


def test_it_says_when_the_next_one_is_born_of_other_code(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after `pip install -U` beneath a running agent: what is forked from memory is still of its own."""
    monkeypatch.setattr(births_module, "on_disk", lambda: "0ther000")

    async def live() -> None:
        nursery = Nursery.started(FAILING)
        births = Births(nursery, idle_s=3600.0)
        try:
            for said in (0, 1):
                child = births.start(FAILING, ["end"])
                assert child.failure().cause is Cause.ENDED and len(caplog.records) == said
                child.close()
                nursery.close()
        finally:
            births.close()

    asyncio.run(live())
    assert "workers that are started now are of build 0ther000; restart the agent" in caplog.text
