"""Starts modules of ours as processes of their own: the loader, the workers, the programs of the lab.

Each runs `redirect.child` in an isolated interpreter: no code of the working directory, of PYTHONPATH or of a user's
site is loaded, whoever starts it and wherever. Why a child ended is a typed Failure with a short text, told by itself
through a pipe; what only its mender needs is in `details`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from redirect import child

REPORT_BYTES = 65536


class Cause(Enum):
    """What can be done about a child that ended."""

    REFUSED = "refused"
    """Its input cannot be used: the same again will not do."""
    SYSTEM = "system"
    """The system denied it something: another try may do."""
    DEFECT = "defect"
    """Nobody expected it; the details are for whoever mends it."""
    DIED = "died"
    """It said nothing: killed, or it could not even begin."""
    ENDED = "ended"
    """It was finished."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a child ended. `text` is one line."""

    cause: Cause
    text: str
    details: str = ""

    def __str__(self) -> str:
        return self.text


class ChildFailed(Exception):
    """A child did not do what it was started for."""

    def __init__(self, what: str, failure: Failure) -> None:
        self.failure = failure
        super().__init__(f"{what}: {failure}")


class ChildLate(ChildFailed):
    """It was ended for taking longer than it may."""


class Child:
    """A process that `start` made, or a nursery; it may outlive this one."""

    def __init__(self, pid: int, report_fd: int) -> None:
        self.pid = pid
        self._report_fd = report_fd
        self._code: int | None = None

    def failure(self) -> Failure:
        """Why it ended; waits for that."""
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return _failure(self._code, self._report_fd)

    def close(self) -> None:
        """Let go of it; it is reaped if it has ended."""
        if self._code is None:
            os.waitpid(self.pid, os.WNOHANG)
        os.close(self._report_fd)


def start(module: str, arguments: Iterable[str], *, pass_fds: Sequence[int] = ()) -> Child:
    """Start a module in a session of its own, in /, with this process's stdout and stderr. Raises OSError."""
    reading, writing = report_pipe()
    try:
        process = subprocess.Popen(
            child.command(module, *arguments, report_fd=writing),
            stdin=subprocess.DEVNULL,
            pass_fds=(*pass_fds, writing),
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    # Who waits for it is Child: it may outlive this process, and Popen is not to warn that nobody waited.
    process.returncode = 0
    return Child(process.pid, reading)


def run(module: str, arguments: Iterable[str], *, timeout_s: float) -> None:
    """Run a module to its end, in /. Raises ChildFailed, with its output among the details, ChildLate; OSError."""
    reading, writing = report_pipe()
    try:
        try:
            done = subprocess.run(
                child.command(module, *arguments, report_fd=writing),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                cwd="/",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            failure = Failure(Cause.SYSTEM, f"it took more than {timeout_s:g} s", _text(error.output))
            raise ChildLate(module, failure) from error
        finally:
            os.close(writing)
        if done.returncode:
            told = _failure(done.returncode, reading)
            failure = Failure(told.cause, told.text, told.details + _text(done.stdout))
            raise ChildFailed(module, failure)
    finally:
        os.close(reading)


def report_pipe() -> tuple[int, int]:
    """The ends of a pipe by which a child says why it ends: that to read from, and the child's."""
    reading, writing = os.pipe()
    # What a child leaves behind may hold the other end: its report is read when it has ended, or is not there.
    os.set_blocking(reading, False)
    return reading, writing


def _failure(code: int, report_fd: int) -> Failure:
    try:
        report = os.read(report_fd, REPORT_BYTES)
    except BlockingIOError:
        report = b""
    if report:
        told = json.loads(report)
        return Failure(Cause(told["cause"]), " ".join(told["text"].split()), told["details"])
    if code < 0:
        return Failure(Cause.DIED, f"ended by {_signal_name(-code)}")
    return Failure(Cause.DIED, f"exit status {code}") if code else Failure(Cause.ENDED, "it was finished")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")
