"""Processes forked from a nursery: whose children they are, what they hold, what becomes of them when it is lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from redirect.child import command
from redirect.nursery import Nursery
from redirect.spawn import Cause
from tests.support.endings import FAILING, WAYS, ended

PATIENCE_S = 30.0
ROOT = Path(__file__).parents[3]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery.started(FAILING)
    yield made
    made.close()


def told_by_child(nursery: Nursery) -> tuple[dict[str, Any], int, int]:
    """What a forked process says of itself, its pid, and the number of the descriptor it was given."""
    reading, writing = os.pipe()
    child = nursery.start(FAILING, ["tell", str(writing)], pass_fds=(writing,))
    os.close(writing)
    with open(reading, "rb") as told:
        said = json.loads(told.read())
    assert ended(child).cause is Cause.ENDED
    return said, child.pid, writing


@pytest.mark.parametrize(("how", "cause", "text"), WAYS)
def test_each_way_to_end_is_told_as_by_a_process_that_was_spawned(
    nursery: Nursery, how: str, cause: Cause, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failure = ended(nursery.start(FAILING, [how]))
    assert failure.cause is cause
    assert str(failure).startswith(text) and "\n" not in str(failure)
    assert capfd.readouterr() == ("", "")


def test_a_forked_process_is_the_makers_child_in_a_session_of_its_own_and_holds_what_it_was_given(
    nursery: Nursery,
) -> None:
    said, pid, given = told_by_child(nursery)
    assert said["parent"] == os.getpid() and said["session"] == pid and said["directory"] == "/"
    report = set(said["held"]) - {0, 1, 2, given}
    assert len(report) == 1, f"more is held than the streams, what was passed and the report: {said['held']}"


def test_what_ps_shows_is_the_module_it_became(nursery: Nursery) -> None:
    child = nursery.start(FAILING, ["sleep", "x" * 3000])
    try:
        process = psutil.Process(child.pid)
        while "sleep" not in process.cmdline():
            assert process.is_running()
        shown = process.cmdline()
        assert shown[:3] == command(FAILING)[:3] and shown[-2:] == ["sleep", "x" * 3000]
        assert "redirect.nursery" in psutil.Process(nursery.pid).cmdline()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert ended(child).text == "ended by SIGKILL"


def test_signals_that_mean_nothing_end_neither_it_nor_those_forked_from_it(nursery: Nursery) -> None:
    child = nursery.start(FAILING, ["sleep"])
    first = nursery.pid
    assert first is not None
    for pid in (first, child.pid):
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, signum)
    os.kill(child.pid, signal.SIGKILL)
    assert ended(child).text == "ended by SIGKILL"
    assert ended(nursery.start(FAILING, ["end"])).cause is Cause.ENDED
    assert nursery.pid == first


def test_a_lost_nursery_is_made_again_and_those_forked_from_it_live_on(nursery: Nursery) -> None:
    child = nursery.start(FAILING, ["sleep"])
    try:
        first = nursery.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert ended(nursery.start(FAILING, ["exit"])).text == "exit status 7"
        assert nursery.pid not in (None, first)
        assert not psutil.pid_exists(first), "nobody waited for it"
        assert psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert ended(child).text == "ended by SIGKILL"


def test_one_that_hangs_is_ended_and_made_again(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(nursery.start(FAILING, ["end"])).cause is Cause.ENDED
    monkeypatch.setattr("redirect.nursery.PATIENCE_S", 0.2)
    first = nursery.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    # Far more than forking takes, for the one that is made anew.
    original = nursery._bury

    def bury(error: Any) -> None:
        monkeypatch.setattr("redirect.nursery.PATIENCE_S", PATIENCE_S)
        original(error)

    monkeypatch.setattr(nursery, "_bury", bury)
    assert ended(nursery.start(FAILING, ["exit"])).text == "exit status 7"
    assert not psutil.pid_exists(first)


def test_a_closed_one_is_gone_and_comes_back_when_it_is_wanted(nursery: Nursery) -> None:
    first = nursery.pid
    assert first is not None
    nursery.close()
    assert nursery.pid is None and not psutil.pid_exists(first)
    assert ended(nursery.start(FAILING, ["end"])).cause is Cause.ENDED


MAKER = """
import json, os, sys, signal
sys.path.insert(0, {root!r})
from redirect.nursery import Nursery
nursery = Nursery.forked({module!r})
import decimal
reading, writing = os.pipe()
child = nursery.start({module!r}, ["tell", str(writing)], pass_fds=(writing,))
os.close(writing)
said = json.loads(open(reading, "rb").read())
sleeper = nursery.start({module!r}, ["sleep"])
print(json.dumps([said, os.getpid(), child.pid, nursery.pid, sleeper.pid, str(child.failure())]), flush=True)
sys.stdin.read()
"""


def test_forked_from_its_maker_it_has_nothing_that_its_maker_got_later_and_ends_with_it() -> None:
    script = MAKER.format(root=str(ROOT), module=FAILING)
    maker = subprocess.Popen(
        [sys.executable, "-I", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdin is not None and maker.stdout is not None
    sleeper = None
    try:
        said, pid, child, nursery, sleeper, failure = json.loads(maker.stdout.readline())
        assert said["parent"] == pid == maker.pid and said["session"] == child
        assert len(said["held"]) == 5 and failure == "it was finished"
        assert "tests.support.failing_child" in said["modules"] and "decimal" not in said["modules"]
        pidfd = os.pidfd_open(nursery)
        maker.kill()
        maker.wait()
        assert select.select([pidfd], [], [], PATIENCE_S)[0], "it outlives its maker"
        os.close(pidfd)
        assert psutil.Process(sleeper).status() != psutil.STATUS_ZOMBIE, "those forked from it live on"
    finally:
        maker.kill()
        if sleeper is not None:
            os.kill(sleeper, signal.SIGKILL)  # it holds the maker's output open
        maker.communicate()


def test_it_is_not_forked_where_there_are_threads() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="before there are threads"):
            Nursery.forked(FAILING)
    finally:
        done.set()
        thread.join()


DENIED = """
import os, resource, sys
sys.path.insert(0, {root!r})
from redirect.nursery import Nursery
nursery = Nursery.started({module!r})
assert str(nursery.start({module!r}, ["exit"]).failure()) == "exit status 7"
pid = nursery.pid
resource.prlimit(pid, resource.RLIMIT_NPROC, (0, 0))
try:
    nursery.start({module!r}, ["end"])
except OSError as error:
    print(error, nursery.pid == pid)
nursery.close()
"""


def test_a_system_that_denies_a_process_is_told_as_such_and_the_nursery_stays() -> None:
    """By a user who is not root: root may make as many processes as it likes."""
    script = DENIED.format(root=str(ROOT), module=FAILING)
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], user=65534, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout == "[Errno 11] cannot fork: Resource temporarily unavailable True\n", done.stderr
