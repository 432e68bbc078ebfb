"""A control process that stood still (SIGSTOP, a freezer, swap) takes nobody's silence for its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from redirect import child
from tests.support.crews import PATIENCE_S, stop

SILENCE_S = 1.0


class Control:
    """A control process of its own, with two workers."""

    def __init__(self, directory: Path, closing: ExitStack) -> None:
        argv = child.command("tests.support.standing_still", str(directory), str(SILENCE_S))
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        closing.callback(self._end)
        self.listening = [tuple(address) for address in self.heard()]

    @property
    def pid(self) -> int:
        return self._process.pid

    def told(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def asked(self, line: str) -> Any:
        self.told(line)
        return self.heard()

    def _end(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture
def control(run_dir: Path) -> Iterator[Control]:
    with ExitStack() as closing:
        yield Control(run_dir, closing)


def say(sock: socket.socket) -> bool:
    sock.sendall(b"hello")
    return sock.recv(5) == b"hello"


def talk_for(seconds: float, talks: list[socket.socket]) -> None:
    """The workers are well all the time."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert all(map(say, talks))


def test_its_workers_and_their_connections_outlive_the_pause(control: Control) -> None:
    before = control.asked("pids")
    with ExitStack() as closing:
        talks = [
            closing.enter_context(socket.create_connection(address, PATIENCE_S))
            for address in control.listening
        ]
        assert all(map(say, talks))
        stop(control.pid)
        talk_for(1.5 * SILENCE_S, talks)
        os.kill(control.pid, signal.SIGCONT)
        # Far more reports than fit into the limit: whoever was to be ended would have been.
        assert control.asked("reports 100") == before
        assert all(map(say, talks))


def test_what_was_applied_during_the_pause_counts(control: Control) -> None:
    before = control.asked("pids")
    workers = list(before.values())
    for pid in workers:
        stop(pid)
    assert control.asked("policy") == "sent"
    stop(control.pid)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    with ExitStack() as closing:
        talks = [
            closing.enter_context(socket.create_connection(address, PATIENCE_S))
            for address in control.listening
        ]
        talk_for(1.5 * SILENCE_S, talks)
        os.kill(control.pid, signal.SIGCONT)
        assert control.heard() == before
        assert control.asked("reports 100") == before
        assert all(map(say, talks))
