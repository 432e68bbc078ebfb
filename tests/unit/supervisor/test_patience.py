"""Time limits of a process that may stand still: what counts is how long it was awake."""

from __future__ import annotations

import asyncio
import time

import pytest

from agent.supervisor.patience import TURN_S, awake_s, within


def stand_still() -> None:
    """As a process does that is stopped: nothing of its loop runs."""
    time.sleep(4 * TURN_S)


def test_a_turn_that_took_far_too_long_counts_as_a_short_one() -> None:
    assert awake_s(0.1, 0.25) == 0.1
    assert awake_s(3600.0, 0.25) == 0.5


def test_an_attempt_keeps_what_it_has_got_over_its_turns() -> None:
    async def scene() -> None:
        got: list[int] = []
        arriving = asyncio.Queue[int]()

        async def attempt() -> list[int]:
            while len(got) < 3:
                got.append(await arriving.get())
            return got

        loop = asyncio.get_running_loop()
        for number in range(3):
            loop.call_later(number * TURN_S, arriving.put_nowait, number)
        assert await within(60.0, attempt) == [0, 1, 2]

    asyncio.run(scene())


def test_patience_ends_and_a_pause_does_not_use_it_up() -> None:
    async def scene() -> None:
        event = asyncio.Event()
        turns = 0

        async def attempt() -> None:
            nonlocal turns
            turns += 1
            if turns == 1:
                stand_still()
            await event.wait()

        with pytest.raises(TimeoutError):
            await within(3 * TURN_S, attempt)
        assert turns > 2, "there was a turn after the pause"

    asyncio.run(scene())
