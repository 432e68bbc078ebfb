"""The crew with real processes: what becomes of workers that fail, hang or go, and what their connections notice."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.listener import ROWS, Side
from agent.supervisor.crew import Crew
from agent.supervisor.recruiter import Recruiter
from redirect import spawn
from redirect.spawn import Child, ChildFailed
from tests.support.crews import LIMITS, Played, crew_of, is_alive, until

SHORT = replace(LIMITS, silence_s=4.0)
"""For workers that are to be found silent."""


def behave(run_dir: Path, slot: int, manner: str) -> None:
    """The next worker of the slot, and no later one, behaves like that."""
    (run_dir / f"{slot}.{manner}").touch()


def play(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scene())


def test_every_listener_is_served_once_the_gates_are_open(run_dir: Path) -> None:
    async def scene() -> None:
        async with crew_of(run_dir) as played:
            assert set(played.pids) == {0, 1}
            early = played.dial()
            await until(lambda: all(played.reports[pid] > 2 for pid in played.pids.values()), "figures")
            assert not any(stats.connections for stats in played.last.values()), "nobody accepts before"
            played.crew.open_gates()
            assert set(played.briefed) == set(played.pids.values())
            for sock in (early, *(played.dial(index) for index in range(2 * len(ROWS)))):
                assert await played.say(sock)
                sock.close()

    play(scene)


def removes(directory: Path, times: int, started: list[int]) -> Callable[..., Child]:
    """Starts workers as ever; so many times the directory is gone when they look for who made them."""

    def start(module: str, arguments: Iterable[str], *, pass_fds: Sequence[int]) -> Child:
        if len(started) < times:
            shutil.rmtree(directory)
        child = spawn.start(module, arguments, pass_fds=pass_fds)
        started.append(child.pid)
        return child

    return start


def test_a_run_directory_that_is_removed_while_a_worker_starts_is_made_again(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        started: list[int] = []
        played = Played(run_dir, 1, LIMITS, "plain")
        played.crew._recruiter._start = removes(run_dir, 1, started)
        await played.crew.muster()
        lost, serving = started
        assert list(played.pids.values()) == [serving] and not is_alive(lost)
        assert f"the run directory {run_dir} is gone: it is made again" in caplog.messages
        assert len(list(run_dir.glob("worker-0-*.sock"))) == 1, "the next agent finds it"
        played.crew.close()

    play(scene)


def test_a_run_directory_that_is_removed_again_and_again_is_named_with_the_remedy(run_dir: Path) -> None:
    async def scene() -> None:
        started: list[int] = []
        played = Played(run_dir, 1, LIMITS, "plain")
        played.crew._recruiter._start = removes(run_dir, 99, started)
        with pytest.raises(OSError, match="another --run-dir") as found:
            await played.crew._recruiter.start(0, played.crew)
        assert found.value.filename == str(run_dir)
        assert started and not any(map(is_alive, started)), "nobody would find them"
        played.crew.close()

    play(scene)


def test_a_worker_that_dies_is_replaced_and_its_queue_is_served_meanwhile(run_dir: Path) -> None:
    async def scene() -> None:
        async with crew_of(run_dir) as played:
            played.crew.open_gates()
            lost = played.pids[0]
            os.kill(lost, signal.SIGKILL)
            for _ in range(4):
                with played.dial() as sock:
                    assert await played.say(sock)
            await until(lambda: played.ended and set(played.pids) == {0, 1}, "its successor")
            await until(lambda: played.crew.restarts == 1, "it is counted")
            assert played.ended == [lost]
            assert lost not in played.pids.values() and not is_alive(lost)
            assert played.pids[0] in played.briefed

    play(scene)


def test_a_worker_that_breaks_its_channel_and_lives_on_is_ended(run_dir: Path) -> None:
    """It could not be told of policy any more."""

    async def scene() -> None:
        async with crew_of(run_dir) as played:
            behave(run_dir, 0, "breaks")
            first = played.pids[0]
            os.kill(first, signal.SIGKILL)
            await until(lambda: played.pids.get(0, first) != first, "one that breaks")
            deserter = played.pids[0]
            played.crew.open_gates()
            await until(lambda: deserter in played.ended and not is_alive(deserter), "it is ended")
            await until(lambda: set(played.pids) == {0, 1}, "its successor")
            assert played.crew.restarts == 2

    play(scene)


def test_a_worker_that_does_not_apply_a_policy_is_ended_and_the_others_stay(run_dir: Path) -> None:
    async def scene() -> None:
        behave(run_dir, 1, "deaf")
        async with crew_of(run_dir) as played:
            played.crew.open_gates()
            good, deaf = played.pids[0], played.pids[1]
            await played.change_policy(patience_s=1.0)
            await until(lambda: played.ended == [deaf] and not is_alive(deaf), "it is ended")
            await until(lambda: set(played.pids) == {0, 1}, "its successor")
            await played.change_policy()
            assert played.pids[0] == good and played.ended == [deaf]

    play(scene)


def test_a_silent_worker_is_ended_and_the_others_stay(run_dir: Path) -> None:
    async def scene() -> None:
        behave(run_dir, 0, "silent")
        async with crew_of(run_dir, limits=SHORT) as played:
            silent, good = played.pids[0], played.pids[1]
            await until(lambda: played.ended == [silent] and not is_alive(silent), "it is ended")
            await until(lambda: set(played.pids) == {0, 1}, "its successor")
            assert played.pids[1] == good and played.ended == [silent]

    play(scene)


def test_what_a_hung_worker_does_not_accept_is_served_by_another(run_dir: Path) -> None:
    async def scene() -> None:
        async with crew_of(run_dir) as played:
            played.crew.open_gates()
            with played.dial() as sock:
                assert await played.say(sock)
            os.kill(played.pids[0], signal.SIGSTOP)
            with played.dial() as sock:
                assert await played.say(sock)

    play(scene)


def test_a_slot_whose_worker_cannot_start_is_tried_again_while_the_others_serve(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        behave(run_dir, 1, "fails")
        async with crew_of(run_dir) as played:
            assert set(played.pids) == {0}
            played.crew.open_gates()
            with played.dial(len(ROWS)) as sock:
                assert await played.say(sock)
            await until(lambda: set(played.pids) == {0, 1}, "another try")

    play(scene)
    assert "worker 1 did not start: it was told to fail" in caplog.text


def test_workers_that_cannot_start_say_why_in_one_line(
    run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        recruiter = Recruiter(run_dir, {"node": "n1"}, {Side.POD: "/run/netns/nobody"})
        played = Played(run_dir, 2, LIMITS, "")
        crew = Crew(
            recruiter,
            2,
            make_listener=played._listener,
            brief=played._brief,
            reported=played._reported,
            ended=lambda link: None,
        )
        try:
            with pytest.raises(ChildFailed) as caught:
                await crew.muster()
        finally:
            crew.close()
        assert str(caught.value).startswith("worker 0 did not start: [Errno 2]")
        assert "/run/netns/nobody" in str(caught.value) and "\n" not in str(caught.value)
        assert "Traceback" in caught.value.failure.details
        assert not list(run_dir.glob("*.sock"))

    play(scene)
    assert capfd.readouterr().err == ""


def test_the_next_control_process_has_the_same_workers_and_connections(run_dir: Path) -> None:
    async def scene() -> None:
        behave(run_dir, 0, "lies")
        async with crew_of(run_dir) as played:
            played.crew.open_gates()
            talks = [played.dial(index) for index in range(2 * len(ROWS))]
            assert all([await played.say(sock) for sock in talks])
            before = played.pids
        async with crew_of(run_dir) as successor:
            assert successor.pids == before, "by what the kernel says, not by what worker 0 says"
            assert not successor.addresses, "the listeners came with the workers"
            successor.crew.open_gates()
            assert all([await played.say(sock) for sock in talks])
            os.kill(before[0], signal.SIGKILL)
            await until(lambda: before[0] in successor.ended, "its end is noticed")
            await until(lambda: set(successor.pids) == {0, 1}, "and made good")
        for sock in talks:
            sock.close()

    play(scene)


def test_a_stop_ends_every_worker_and_leaves_nothing_behind(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def scene() -> None:
        async with crew_of(run_dir) as played:
            played.crew.open_gates()
            pids = played.pids.values()
            talk = played.dial()
            assert await played.say(talk)
            # The other worker ends at once: its listeners are nobody's any more.
            asyncio.get_running_loop().call_later(0.3, talk.close)
            await played.crew.drain(LIMITS.drain_s)
            assert not any(map(is_alive, pids)) and sorted(played.ended) == sorted(pids)
            assert all(stats.metrics.get("last") for stats in played.last.values()), "the last figures count"

    play(scene)
    assert not list(run_dir.glob("*.sock"))
    assert not caplog.records, "a stop is no reason to complain"


def test_a_stop_does_not_wait_for_a_worker_that_hangs(run_dir: Path) -> None:
    async def scene() -> None:
        async with crew_of(run_dir) as played:
            played.crew.open_gates()
            hung = played.pids[0]
            os.kill(hung, signal.SIGSTOP)
            await played.crew.drain(0.1)
            assert not is_alive(hung) and not list(run_dir.glob("*.sock"))

    play(scene)
