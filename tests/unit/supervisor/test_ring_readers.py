"""Who takes the held SYNs of whom: rings go with listeners, and never does one have two readers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.channel import RING
from agent.supervisor.ring_readers import RingReaders
from tests.support.crews import LIMITS, Played, crew_of, until
from tests.support.crews import stop as stand_still


class Rings:
    """Descriptors that pass for rings, and whom they are of; each `renew` makes another."""

    def __init__(self, owners: int) -> None:
        self._closing = ExitStack()
        self.made = [self._new() for _ in range(owners)]
        self.renewed: list[int] = []
        self.full: set[int] = set()
        self.is_broken = False

    def _new(self) -> socket.socket:
        return self._closing.enter_context(socket.create_server(("127.0.0.1", 0)))

    def fd(self, owner: int) -> int:
        return self.made[owner].fileno()

    def is_empty(self, owner: int) -> bool:
        return owner not in self.full

    def renew(self, owner: int) -> None:
        if self.is_broken:
            raise OSError(12, "Cannot allocate memory")
        self.made[owner] = self._new()
        self.renewed.append(owner)

    def close(self) -> None:
        self._closing.close()


def link(**attributes: Any) -> Any:
    return SimpleNamespace(is_lost=False, owners=frozenset(), **attributes)


def test_the_next_reader_gets_an_empty_ring_unless_the_one_before_is_gone() -> None:
    readers, rings = RingReaders(), Rings(2)
    first, second = link(), link()
    assert readers.beside(first, 0) == {}, "nothing is held"
    readers.rings = rings
    assert readers.beside(first, 0) == {RING: rings.fd(0)}
    assert readers.beside(first, 0) == {RING: rings.fd(0)}, "once more, as it did not arrive"
    assert rings.renewed == []
    assert readers.beside(second, 0) == {RING: rings.fd(0)} and rings.renewed == [0]
    second.is_lost = True
    assert readers.beside(first, 0) == {RING: rings.fd(0)} and rings.renewed == [0], (
        "what waits is its heir's"
    )
    retires, adopted = link(), link()
    retires.owners = adopted.owners = frozenset({1})
    readers.found(adopted, is_ours=True)
    readers.found(retires, is_ours=False)
    assert readers.beside(adopted, 1) and rings.renewed == [0], "it has that already"
    readers.beside(first, 1)
    assert rings.renewed == [0, 1]
    readers.close()


def test_without_a_new_ring_nobody_else_reads_the_old_one(caplog: pytest.LogCaptureFixture) -> None:
    readers, rings = RingReaders(), Rings(1)
    readers.rings = rings
    first, second = link(), link()
    readers.beside(first, 0)
    rings.is_broken = True
    with caplog.at_level(logging.ERROR):
        assert readers.beside(second, 0) == {}
    assert "no ring for the SYNs of worker 0" in caplog.text
    rings.is_broken = False
    assert readers.beside(second, 0) == {RING: rings.fd(0)} and rings.renewed == [0]
    readers.close()


def play(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scene())


def opened(played: Played) -> Rings:
    """The rings of a crew of two that serves."""
    rings = Rings(2)
    played.crew.hold_syns(rings)
    played.crew.open_gates()
    # One of them came first and had both for a moment.
    assert len(rings.renewed) == 1
    rings.renewed.clear()
    return rings


def test_a_dead_workers_ring_goes_to_who_serves_its_queue(run_dir: Path) -> None:
    async def scene() -> None:
        async with crew_of(run_dir) as played:
            rings = opened(played)
            os.kill(played.pids[0], signal.SIGKILL)
            await until(lambda: set(played.pids) == {0, 1} and played.crew.restarts == 1, "its successor")
            # The stand-in got the one that there was; the successor, while the stand-in lives, another.
            assert rings.renewed == [0]

    play(scene)


def test_a_worker_that_hangs_is_relieved_and_comes_back(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with crew_of(run_dir, limits=replace(LIMITS, silence_s=60.0, return_s=0.3)) as played:
            rings = opened(played)
            hangs = played.pids[0]
            stand_still(hangs)
            rings.full.add(0)
            await until(lambda: rings.renewed == [0], "another has its ring, a new one")
            rings.full.clear()
            os.kill(hangs, signal.SIGCONT)
            await until(lambda: "has come round" in caplog.text, "it gets it back")
            assert rings.renewed == [0, 0] and played.pids[0] == hangs

    with caplog.at_level(logging.INFO):
        play(scene)


def test_a_worker_that_says_nothing_more_does_not_come_back(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with crew_of(run_dir, limits=replace(LIMITS, silence_s=60.0, return_s=0.0)) as played:
            rings = opened(played)
            hangs = played.pids[0]
            stand_still(hangs)
            rings.full.add(0)
            await until(lambda: rings.renewed == [0], "another has its ring")
            rings.full.clear()
            heard = played.reports[played.pids[1]]
            await until(lambda: played.reports[played.pids[1]] > heard + 20, "some time")
            assert "has come round" not in caplog.text
            os.kill(hangs, signal.SIGKILL)
            await until(
                lambda: set(played.pids) == {0, 1} and played.pids[0] != hangs, "its successor has it"
            )
            assert rings.renewed == [0, 0]

    with caplog.at_level(logging.INFO):
        play(scene)


def be_alone(played: Played, why: str) -> None:
    """One of the two reasons why only one worker may serve an owner."""
    if why == "rings":
        played.crew.hold_syns(Rings(2))
    else:
        played.crew.ring_readers.choice_key = 7
    played.crew.open_gates()


@pytest.mark.parametrize("why", ["rings", "key"])
def test_a_worker_that_leaves_lets_go_what_another_takes(run_dir: Path, why: str) -> None:
    async def scene() -> None:
        async with crew_of(run_dir) as played:
            be_alone(played, why)
            leaving = next(link for link in played.crew.links if link.slot == 0)
            releases = (await played.heard(leaving)).count("Release")
            with played.dial() as kept:
                assert await played.say(kept)
                os.kill(leaving.pid, signal.SIGTERM)
                await until(lambda: leaving in played.crew.retiring, "it retires")
                heard = await played.heard(leaving)
                assert heard.count("Release") == releases + 1

    play(scene)


@pytest.mark.parametrize("why", ["rings", "key"])
def test_a_worker_whose_queue_stands_lets_go_of_it(
    run_dir: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with crew_of(run_dir, limits=replace(LIMITS, return_s=60.0)) as played:
            be_alone(played, why)
            stands = [[0]]
            monkeypatch.setattr(
                played.crew.queues, "stalled", lambda passed_s: stands.pop() if stands else []
            )
            link = next(link for link in played.crew.links if link.slot == 0)
            releases = (await played.heard(link)).count("Release")
            await until(lambda: not stands, "its queue stands")
            assert (await played.heard(link)).count("Release") == releases + 1

    play(scene)


def test_who_serves_plaintext_is_told_first_by_which_key_it_is_chosen(run_dir: Path) -> None:
    """One that starts and one that is adopted; none where nobody has to know it."""

    async def scene(key: int) -> list[list[str]]:
        async with crew_of(run_dir) as played:
            played.crew.ring_readers.choice_key = key
            played.crew.open_gates()
            os.kill(played.pids[0], signal.SIGKILL)
            await until(lambda: set(played.pids) == {0, 1} and played.crew.restarts == 1, "its successor")
            return [await played.heard(link) for link in played.crew.links if link.slot == 0]

    (silent,) = asyncio.run(scene(0))
    assert "ChoiceKey" not in silent
    (heard,) = asyncio.run(scene(7))
    assert heard.index("ChoiceKey") < heard.index("Listeners")
