"""The log of real processes: tracebacks get out, and a reader that takes nothing holds up nothing."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.channel import Stats
from agent.channel_socket import Channel
from agent.controlplane.translate.resources import AUTHORIZATION_TYPE
from agent.log import JsonFormatter, PlainFormatter
from redirect import child
from tests.support.controlplane import LIMIT_S, NAMESPACE, Plane, deny
from tests.support.labtraffic import until

ROOT = Path(__file__).parents[2]
FULL = b"\0"
"""What fills the pipe before the process starts."""


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """(reader, writer) of a pipe with no room at all."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    assert os.write(writer, FULL * 65536) < 65536
    os.set_blocking(writer, True)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


class Draining(threading.Thread):
    """Takes everything from a pipe, from now until its last writer is gone."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._fd = os.dup(fd)
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        with open(self._fd, "rb") as file:
            for line in file:
                self.lines.append(line.lstrip(FULL).decode().rstrip("\n"))

    def with_text(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]


@pytest.mark.parametrize("form", ["plain", "json"])
def test_lines_and_a_crash_reach_stderr_in_order(form: str) -> None:
    script = f"""
import atexit, logging, threading
from agent.log import set_up_log
atexit.register(lambda: logging.getLogger("agent.x.y").info("after the end"))
set_up_log("info", "{form}", "p")
for n in range(500):
    logging.getLogger("agent.x.y").info("line %d", n)
def fail():
    raise ValueError("in a thread")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
1 / 0
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    if form == "json":
        assert [json.loads(line)["message"] for line in lines[:500]] == [f"line {n}" for n in range(500)]
    else:
        assert [line.split("\t")[1:] for line in lines[:500]] == [
            ["info", "p:x::y", f"line {n}"] for n in range(500)
        ]
    assert "after the end" in lines.pop()
    rest = "\n".join(lines[500:])
    assert rest.count("Traceback (most recent call last)") == 2
    assert rest.index("ValueError: in a thread") < rest.index("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("form", ["plain", "json"])
def test_no_name_ends_a_line_fakes_a_field_or_steers_a_terminal(form: str) -> None:
    hostile = (
        "pod\n2026-01-01T00:00:00.000000Z\terror\tagent:x\tgone\x1b]0;owned\x07\x1b[2J\u2028\u202e\ud800"
    )
    formatter = (JsonFormatter if form == "json" else PlainFormatter)("agent")
    line = formatter.format(
        logging.LogRecord("agent.x", logging.INFO, __file__, 0, "%s is there", (hostile,), None)
    )
    line.encode()
    assert line.replace("\t", "").isprintable() and len(line.splitlines()) == 1
    if form == "json":
        assert json.loads(line)["message"] == f"{hostile} is there"
    else:
        assert line.count("\t") == 3


@contextmanager
def started(*arguments: str, out: int, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes there; it is gone after the block."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=out, stderr=out, **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_last_words_wait_for_a_stuck_reader_only_a_little() -> None:
    script = 'from agent.log import set_up_log\nset_up_log("info", "plain", "p")\nprint("out")\n1 / 0'
    with full_pipe() as (_, writer), started("-c", script, out=writer) as process:
        assert process.wait(timeout=30) == 1


def test_a_control_plane_serves_although_nobody_reads_its_log(tmp_path: Path) -> None:
    manifests, state = tmp_path / "manifests", tmp_path / "state"
    manifests.mkdir()
    (manifests / "all.yaml").write_text(NAMESPACE + deny("first"))
    where = ["--listen", "127.0.0.1:0", "--manifests", str(manifests), "--state-dir", str(state)]
    with (
        full_pipe() as (reader, writer),
        started("-m", "agent", "control-plane", *where, out=writer) as plane,
    ):
        client = Plane(listening(state), manifests, state)
        asyncio.run(refuse_often(client, 1500))
        log = Draining(reader)
        until(lambda: log.with_text("lines are missing here"), "the note")
        asyncio.run(refuse_often(client, 1))
        until(lambda: log.with_text("last one"), "what came after the gap")
        plane.terminate()
        assert plane.wait(timeout=30) == 0
    numbers = [int(line.rsplit(" ", 1)[1]) for line in log.with_text("number ")]
    [note] = log.with_text("lines are missing here")
    assert note.split("\t")[1:3] == ["warning", "control-plane:log"]
    assert numbers == list(range(len(numbers)))
    assert lines_of(note) >= 1500 - len(numbers) > 400


def test_a_worker_whose_log_nobody_reads_answers_and_counts_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    with socket.socket(socket.AF_UNIX) as listening, full_pipe() as (reader, writer):
        listening.bind(str(path))
        listening.listen(4)
        fd = listening.fileno()
        arguments = [
            "--slot",
            "0",
            "--version",
            "v",
            "--build",
            "b",
            "--channel-fd",
            str(fd),
            "--config",
            "{}",
        ]
        _, *command = child.command("agent.worker", *arguments)
        with started(*command, out=writer, pass_fds=(fd,)) as worker:
            for _ in range(1500):
                be_sent_away(path)  # a line each
            assert lost_in(path) > 400
            log = Draining(reader)
            until(lambda: log.with_text("lines are missing here"), "the note")
            lost = lost_in(path)
            worker.terminate()
            assert worker.wait(timeout=30) == 0
    [note] = log.with_text("lines are missing here")
    assert note.split("\t")[1:3] == ["warning", "worker-0:log"]
    assert lines_of(note) == lost


def lines_of(note: str) -> int:
    return int(note.split("\t")[3].split()[0])


def be_sent_away(path: Path) -> None:
    """Be a control process that does not keep to the protocol: the worker says so, then it closes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(str(path))
        sock.sendall(b"\xff" * 64)
        while sock.recv(65536):
            pass


def lost_in(path: Path) -> float:
    """Lines of the process log that the worker says it has lost."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        channel = Channel(sock)
        messages = until(lambda: [m for m, _ in channel.receive() if isinstance(m, Stats)], "its figures")
    figures = {(name, *labels): count for name, labels, count in messages[0].metrics["figures"]}
    assert figures["ztun_log_lines_lost", "access"] == 0
    return float(figures["ztun_log_lines_lost", "process"])


class Listening:
    """What `Plane` wants to know of a control plane that is another process."""

    def __init__(self, address: str) -> None:
        self.address = address


def listening(state: Path) -> Listening:
    def address() -> str:
        path = state / "status.json"
        return str(json.loads(path.read_text())["address"]) if path.exists() else ""

    return Listening(until(address, "a control plane that listens", patience_s=30))


async def refuse_often(plane: Plane, times: int) -> None:
    """Refuse a policy so often; each is a line of the log."""
    async with asyncio.timeout(6 * LIMIT_S), plane.client() as client:
        await client.subscribe(AUTHORIZATION_TYPE)
        response = await client.receive(AUTHORIZATION_TYPE)
        for number in range(times):
            # Asking for it again in the same breath has it sent again.
            await client.subscribe(
                AUTHORIZATION_TYPE,
                names=(response.resources[0].name,),
                response_nonce=response.nonce,
                error_detail={"message": "last one" if times == 1 else f"number {number}"},
            )
            response = await client.receive(AUTHORIZATION_TYPE)
