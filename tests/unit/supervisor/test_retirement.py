"""Workers that retire hand over what is live: when, to whom, one after the other, and what becomes of failures."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

from agent.channel import NotKnown, Revoked
from agent.model.listener import ROWS
from agent.supervisor import retirement, worker_link
from agent.supervisor.worker_link import WorkerLink
from tests.support.crews import LIMITS, Played, crew_of, is_alive, stop, until

LONG = replace(LIMITS, silence_s=600.0, stall_s=600.0, hand_over_s=60.0)


def play(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scene())


async def told_to_hand_over(crew: Played, link: WorkerLink) -> None:
    while True:
        if "HandOver" in await crew.heard(link):
            return
        await asyncio.sleep(0.01)


def behave(run_dir: Path, slot: int, manner: str) -> None:
    (run_dir / f"{slot}.{manner}").touch()


def test_what_is_live_goes_on_with_the_successors(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        async with crew_of(run_dir, formats="1") as former:
            former.crew.open_gates()
            old = former.pids
            talks = [former.dial(index) for index in range(2 * len(ROWS))]
            assert await former.say_on(talks)
        async with crew_of(run_dir, flavour="other", formats="2 1") as crew:
            assert await former.say_on(talks)
            assert not any(["TakeOver" in await crew.heard(link) for link in crew.crew.links])
            crew.crew.open_gates()
            await until(lambda: sorted(crew.ended) == sorted(old.values()), "the old ones end")
            await until(lambda: caplog.text.count("has ended, after its hand-over") == 2, "that is said")
            assert await former.say_on(talks), "not one of their connections was closed"
            assert [each["moved"] for each in crew.crew.hand_overs] == 2 * [{"socket": len(ROWS)}]
            assert {each["from_pid"] for each in crew.crew.hand_overs} == set(old.values())
            for link in crew.crew.links:
                heard = await crew.heard(link)
                assert heard.index("Resources") < heard.index("TakeOver"), "first it is told everything"
            for talk in talks:
                talk.close()

    play(scene)
    handed = [record.getMessage() for record in caplog.records if "has handed over" in record.getMessage()]
    assert len(handed) == 2 and all(f"{len(ROWS)} × socket" in line and "10.0 ms" in line for line in handed)
    assert "could say why" not in caplog.text


def test_one_hands_over_after_the_other(run_dir: Path) -> None:
    async def scene() -> None:
        behave(run_dir, 0, "keeps")
        async with crew_of(run_dir, formats="1", limits=LONG) as former:
            former.crew.open_gates()
            old = former.pids
            talks = [former.dial(index) for index in range(2 * len(ROWS))]
            assert await former.say_on(talks)
        async with crew_of(run_dir, flavour="other", formats="1", limits=LONG) as crew:
            crew.crew.open_gates()
            first, second = sorted(crew.crew.retiring, key=lambda link: link.slot)
            await told_to_hand_over(crew, first)
            assert "HandOver" not in await crew.heard(second)
            assert await former.say_on(talks)
            # It dies: what it has is lost with it, and the next one's turn comes.
            os.kill(old[0], signal.SIGKILL)
            await until(lambda: len(crew.ended) == 2, "both end")
            for talk in talks:
                talk.close()

    play(scene)


def test_the_next_control_process_finds_both_and_hands_over_again(run_dir: Path) -> None:
    async def scene() -> None:
        behave(run_dir, 0, "keeps")
        async with crew_of(run_dir, 1, formats="1", limits=LONG) as former:
            former.crew.open_gates()
            old, talk = former.pids[0], former.dial()
            assert await former.say(talk)
        async with crew_of(run_dir, 1, flavour="other", formats="1", limits=LONG) as middle:
            middle.crew.open_gates()
            [link] = middle.crew.retiring
            await told_to_hand_over(middle, link)
            taker = middle.pids[0]
        async with crew_of(run_dir, 1, flavour="other", formats="1", limits=LONG) as crew:
            assert crew.pids == {0: taker} and [each.pid for each in crew.crew.retiring] == [old]
            assert await former.say(talk)
            crew.crew.open_gates()
            await until(lambda: crew.ended == [old], "it has handed over")
            assert await former.say(talk)
            talk.close()

    play(scene)


@pytest.mark.parametrize(("formats", "why"), [("", "of a build that cannot"), ("7 8", "units of format")])
def test_who_has_no_common_format_drains_and_the_log_says_so(
    run_dir: Path, caplog: pytest.LogCaptureFixture, formats: str, why: str
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        async with crew_of(run_dir, 1, formats=formats) as former:
            former.crew.open_gates()
            talk = former.dial()
            assert await former.say(talk)
        async with crew_of(run_dir, 1, flavour="other", formats="1 2") as crew:
            crew.crew.open_gates()
            [link] = crew.crew.retiring
            heard = await crew.heard(link)
            assert "Drain" in heard and "HandOver" not in heard
            assert await former.say(talk)
            talk.close()
            await until(lambda: crew.ended == [link.pid], "it ends when nothing is left")

    play(scene)
    assert why in caplog.text


def test_a_successor_that_does_not_take_is_found_and_what_is_live_drains(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_link, "BRIEFED_PATIENCE_S", 0.5)

    async def scene() -> None:
        async with crew_of(run_dir, 1, formats="1") as former:
            former.crew.open_gates()
            talk = former.dial()
            assert await former.say(talk)
        behave(run_dir, 0, "refuses")
        async with crew_of(run_dir, 1, flavour="other", formats="1") as crew:
            crew.crew.open_gates()
            [link] = crew.crew.retiring
            await until(lambda: link.is_draining, "it drains")
            assert "HandOver" not in await crew.heard(link)
            assert await former.say(talk)
            # The next one in its slot takes what is left by then.
            os.kill(crew.pids[0], signal.SIGKILL)
            await until(lambda: crew.ended[-1:] == [link.pid], "it has handed over")
            assert await former.say(talk)
            talk.close()

    play(scene)
    assert "does not take" in caplog.text


def test_where_a_successor_fails_another_worker_takes(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(worker_link, "BRIEFED_PATIENCE_S", 0.5)

    async def scene() -> None:
        async with crew_of(run_dir, formats="1") as former:
            former.crew.open_gates()
            old = former.pids
            talks = [former.dial(index) for index in range(2 * len(ROWS))]
            assert await former.say_on(talks)
        behave(run_dir, 0, "refuses")
        async with crew_of(run_dir, flavour="other", formats="1") as crew:
            crew.crew.open_gates()
            await until(lambda: sorted(crew.ended) == sorted(old.values()), "both have handed over")
            assert await former.say_on(talks)
            [other] = [link for link in crew.crew.links if link.slot == 1]
            heard = await crew.heard(other)
            assert heard.count("TakeOver") == 2
            for talk in talks:
                talk.close()

    play(scene)
    assert "stops handing over to worker 0" in caplog.text and "nobody to hand over to" not in caplog.text


@pytest.mark.parametrize("stands_still", ["before it takes", "while it takes"])
def test_the_only_successor_that_stands_still_for_a_while_takes_what_is_live_when_it_goes_on(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, stands_still: str
) -> None:
    monkeypatch.setattr(worker_link, "BRIEFED_PATIENCE_S", 0.5)

    async def scene() -> None:
        if stands_still == "while it takes":
            behave(run_dir, 0, "late")
        async with crew_of(run_dir, 1, formats="1", limits=LONG) as former:
            former.crew.open_gates()
            talk = former.dial()
            assert await former.say(talk)
        async with crew_of(run_dir, 1, flavour="other", formats="1", limits=LONG) as crew:
            [taker], [link] = crew.crew.links, crew.crew.retiring
            if stands_still == "before it takes":
                stop(taker.pid)
            crew.crew.open_gates()
            await until(lambda: "stops handing over" in caplog.text, "it has failed")
            if stands_still == "before it takes":
                os.kill(taker.pid, signal.SIGCONT)
            await until(lambda: crew.ended == [link.pid], "it has handed over")
            assert crew.pids == {0: taker.pid} and await former.say(talk)
            talk.close()

    play(scene)
    assert "nobody to hand over to" not in caplog.text


def test_who_never_takes_is_asked_a_few_times_before_what_is_live_drains(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_link, "BRIEFED_PATIENCE_S", 0.05)
    monkeypatch.setattr(retirement, "ROUND_PAUSE_S", 0.05)

    async def scene() -> None:
        async with crew_of(run_dir, 1, formats="1") as former:
            former.crew.open_gates()
            talk = former.dial()
            assert await former.say(talk)
        behave(run_dir, 0, "refuses")
        async with crew_of(run_dir, 1, flavour="other", formats="1") as crew:
            crew.crew.open_gates()
            [link] = crew.crew.retiring
            await until(lambda: link.is_draining, "it drains")
            assert (await crew.heard(crew.crew.links[0])).count("TakeOver") == retirement.MOST_ROUNDS
            talk.close()
            await until(lambda: crew.ended == [link.pid], "it ends when nothing is left")

    play(scene)
    assert caplog.text.count("nobody to hand over to") == 1


def test_what_binds_is_told_to_who_knows_it_and_has_others_drain(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with crew_of(run_dir, 1) as former:
            former.crew.open_gates()
            talk, older = former.dial(), former.pids[0]
            assert await former.say(talk)
        async with crew_of(run_dir, 1, flavour="other", formats="1") as crew:
            crew.crew.broadcast(Revoked([]))
            [mine], [retiring] = crew.crew.links, crew.crew.retiring
            assert retiring.pid == older
            assert await crew.heard(mine) == ["Revoked", "Ask"]
            assert (await crew.heard(retiring))[-2:] == ["Drain", "Ask"]
            talk.close()

    play(scene)
    assert "does not know Revoked: it drains" in caplog.text


def test_who_does_not_know_what_binds_gets_a_successor(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        async with crew_of(run_dir, 1, formats="1") as crew:
            crew.crew.open_gates()
            [link] = crew.crew.links
            link._heard(NotKnown("Hint", False))
            assert crew.crew.links == (link,)
            link._heard(NotKnown("Quarantine", True))
            await until(lambda: crew.ended == [link.pid] and set(crew.pids) == {0}, "its successor")
            await until(lambda: not is_alive(link.pid), "and its own end")

    play(scene)
    assert "does not know Hint, and goes on" in caplog.text
    assert "does not know Quarantine, which binds" in caplog.text
