"""One generation of workers after another: who serves meanwhile, and that those who retire are told and counted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

from agent.channel_socket import Channel
from agent.model.listener import ROWS
from agent.supervisor import recruiter as recruiting
from agent.supervisor.process import Process
from agent.supervisor.recruiter import Recruiter
from agent.supervisor.worker_link import Hears, WorkerLink
from tests.support.crews import LIMITS, crew_of, is_alive, until

PATIENT = replace(LIMITS, silence_s=600.0, stall_s=600.0)
"""Nobody is found silent or slow."""


def play(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scene())


def test_workers_of_another_configuration_serve_until_the_new_ones_do(run_dir: Path) -> None:
    async def scene() -> None:
        async with crew_of(run_dir) as former:
            former.crew.open_gates()
            old = former.pids
            talk = former.dial()
            assert await former.say(talk)
        async with crew_of(run_dir, flavour="other") as crew:
            assert set(old.values()).isdisjoint(crew.pids.values())
            with former.dial() as early:
                assert await former.say(early), "nobody waits for the first state of the new control process"
            crew.crew.open_gates()
            for index in range(2 * len(ROWS)):
                with former.dial(index) as sock:
                    assert await former.say(sock)
            assert await former.say(talk), "who was accepted is served"
            talk.close()
            await until(lambda: sorted(crew.ended) == sorted(old.values()), "the old ones end")
            await until(lambda: not any(map(is_alive, old.values())), "and are gone")
            assert all(crew.last[pid].metrics["last"] for pid in old.values()), "their last figures count"
            assert set(crew.pids) == {0, 1} and crew.crew.restarts == 0
            await until(
                lambda: len(list(run_dir.glob("*.sock"))) == 2, "only the names of the new ones are left"
            )

    play(scene)


def test_a_worker_that_drains_hears_of_policy_and_is_ended_when_it_does_not_apply_it(run_dir: Path) -> None:
    async def scene() -> None:
        async with crew_of(run_dir, 1) as former:
            former.crew.open_gates()
            talk = former.dial()
            assert await former.say(talk)
        async with crew_of(run_dir, 1, flavour="other", limits=PATIENT) as crew:
            crew.crew.open_gates()
            (retiring,) = crew.crew.retiring
            seen = crew.reports[retiring.pid]
            await crew.change_policy()
            heard = await crew.heard(retiring)
            assert heard[heard.index("Drain") :] == ["Drain", "Resources", "Ask"]
            assert retiring.applied == 1
            await until(lambda: crew.reports[retiring.pid] > seen, "it is counted")
            assert crew.last[retiring.pid].connections == 1
            assert await crew.crew.ask_all("heard") == [
                ["Resources", "Listeners", "Resources", "Ask"],
                [*heard, "Ask"],
            ]
            os.kill(retiring.pid, signal.SIGSTOP)
            await crew.change_policy(patience_s=0.3)
            await until(lambda: not is_alive(retiring.pid), "it cannot follow, so it may not go on")
            talk.close()

    play(scene)


def test_a_worker_that_drains_already_is_not_given_listeners_by_the_next_control_process(
    run_dir: Path,
) -> None:
    async def scene() -> None:
        async with crew_of(run_dir, 1) as former:
            former.crew.open_gates()
            (link,) = former.crew.links
            talk = former.dial()
            assert await former.say(talk)
            former.crew.leaving(link)
            await until(lambda: link.is_draining and former.pids, "its successor")
            os.kill(former.pids[0], signal.SIGKILL)
        async with crew_of(run_dir, 1) as crew:
            assert [each.pid for each in crew.crew.retiring] == [link.pid] != crew.pids[0]
            crew.crew.open_gates()
            assert "Listeners" not in (await crew.heard(crew.crew.retiring[0]))[2:]
            assert await former.say(talk)
            talk.close()
            await until(lambda: not is_alive(link.pid), "it ends when nothing is left")

    play(scene)


def test_a_worker_that_is_asked_to_end_has_its_successor_first(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def scene() -> None:
        async with crew_of(run_dir, 1, limits=PATIENT) as crew:
            crew.crew.open_gates()
            first = crew.pids[0]
            talk = crew.dial()
            assert await crew.say(talk)
            os.kill(first, signal.SIGTERM)
            await until(lambda: crew.crew.retiring, "it says so")
            while crew.pids.get(0, first) == first:
                with crew.dial() as sock:
                    assert await crew.say(sock)
            assert await crew.say(talk)
            talk.close()
            await until(lambda: crew.ended == [first], "it ends when nothing is left")

    play(scene)
    assert not caplog.records


GIBBERISH = """
import signal, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
print(flush=True)
s.accept()[0].sendall(bytes(64))
signal.pause()
"""


def test_a_worker_that_cannot_be_understood_is_ended(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of a version with another channel: it would serve by its old policy for ever."""
    argv = [sys.executable, "-S", "-E", "-c", GIBBERISH, str(run_dir / "worker-0-7.sock")]

    async def scene() -> None:
        async with crew_of(run_dir, 1) as crew:
            assert set(crew.pids) == {0}

    with subprocess.Popen(argv, stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            play(scene)
            assert stranger.wait() == -signal.SIGKILL
        finally:
            stranger.kill()
    assert "cannot be used (malformed frame" in caplog.text


def test_names_that_nobody_listens_at_are_removed(run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir / "worker-0-7.sock"))

    async def scene() -> None:
        async with crew_of(run_dir, 1) as crew:
            (link,) = crew.crew.links
            assert list(run_dir.glob("*.sock")) == [link.path]

    play(scene)


def test_who_gives_up_looking_for_workers_leaves_no_descriptor_open(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an agent that is ended while it starts; the second worker stands still, and is waited for."""

    async def scene() -> None:
        async with crew_of(run_dir) as former:
            former.crew.open_gates()
            await until(lambda: len(former.reports) == 2, "both report")
            pids = former.pids
        recruiter, nobody = Recruiter(run_dir, {"lair": str(run_dir), "flavour": "plain"}, {}), former.crew
        held = set(os.listdir("/proc/self/fd"))
        os.kill(pids[1], signal.SIGSTOP)
        greetings: list[Path] = []
        greeted = recruiting.greeted

        async def noted(channel: Channel, process: Process, path: Path, hears: Hears) -> WorkerLink:
            greetings.append(path)
            return await greeted(channel, process, path, hears)

        monkeypatch.setattr(recruiting, "greeted", noted)
        looking = asyncio.create_task(recruiter.find(nobody))
        await until(lambda: len(greetings) == 2, "the second is waited for")
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert set(os.listdir("/proc/self/fd")) == held
        os.kill(pids[1], signal.SIGCONT)

    play(scene)
