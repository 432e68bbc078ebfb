"""A process that is ready to become a module of ours: who is forked from it shares the memory of what it has imported.

It has one thread and holds nothing but imported code: it is made before its maker has secrets, threads or files, or as
a process of its own (`redirect.spawn`) when it was lost. Those forked become children of its maker by way of a process
in between that ends, so that its maker alone waits for them, and none of them ends with it. It ends with its maker.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from redirect import child, spawn
from redirect.shown_command import show_as
from redirect.spawn import Child, Failure

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long it may take to fork; one that hangs is ended, and made anew for the next."""
REQUEST_BYTES = 65536
FDS_MAX = 64
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class NurseryLost(OSError):
    """It is gone, or does not answer."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process shall become. `numbers`: under which it has the descriptors that come along."""

    module: str
    report_fd: int
    arguments: tuple[str, ...]
    numbers: tuple[int, ...]


class Nursery:
    """The maker's end. `module` is what it imports, to become that or anything that shares its imports."""

    def __init__(self, module: str, process: Child, sock: socket.socket) -> None:
        self._module = module
        self._process: Child | None = process
        self._sock = sock

    @classmethod
    def forked(cls, module: str) -> Nursery:
        """Fork it from this process, which shares its memory from now on. Raises OSError, RuntimeError.

        In the new processes this never returns. Not with threads: their locks would never be released there.
        """
        if len(os.listdir("/proc/self/task")) != 1:
            raise RuntimeError("a nursery is forked before there are threads")
        _adopt_descendants()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, writing = spawn.report_pipe()
        # What was made so far stays: collecting it would write into pages that are shared. Nor is it looked through
        # before: that took a twentieth of a start's CPU time, to find 0.1 MB.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.close(reading)
            os.setsid()
            arguments = [module, str(theirs.detach())]
            show_as(child.command(__name__, *arguments, report_fd=writing))
            child.become(__name__, writing, arguments)
        theirs.close()
        os.close(writing)
        return cls(module, Child(pid, reading), ours)

    @classmethod
    def started(cls, module: str) -> Nursery:
        """Have it as a process that shares nothing with this one. Raises OSError."""
        _adopt_descendants()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                process = spawn.start(__name__, [module, str(theirs.fileno())], pass_fds=(theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
        return cls(module, process, ours)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self, module: str, arguments: Iterable[str], *, pass_fds: Sequence[int] = ()) -> Child:
        """As `spawn.start`, by a fork of the nursery; one that was lost is made again. Raises OSError."""
        order = tuple(arguments)
        if self._process is not None:
            try:
                return self._start(module, order, pass_fds)
            except NurseryLost as error:
                self._bury(error)
        anew = Nursery.started(self._module)
        self._process, self._sock = anew._process, anew._sock
        try:
            return self._start(module, order, pass_fds)
        except NurseryLost as error:
            self._bury(error)
            raise

    def close(self) -> None:
        """End it, and have its memory; those forked from it live on, and the next `start` makes it again."""
        if self._process is not None:
            self._end(self._process)

    def _start(self, module: str, arguments: tuple[str, ...], pass_fds: Sequence[int]) -> Child:
        reading, writing = spawn.report_pipe()
        waiting, go = os.pipe()
        try:
            try:
                order = Order(module, writing, arguments, (*pass_fds, writing, waiting))
                pid = self._ask(json.dumps(asdict(order)).encode(), order.numbers)
            finally:
                os.close(writing)
                os.close(waiting)
            # It has waited for this: one whose maker does not know it ends, and nobody else could find it.
            os.write(go, b"!")
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(go)
        return Child(pid, reading)

    def _ask(self, order: bytes, fds: Sequence[int]) -> int:
        """The pid of a process that has begun. Raises OSError, NurseryLost."""
        self._sock.settimeout(PATIENCE_S)
        try:
            socket.send_fds(self._sock, [order], fds)
            reply = self._sock.recv(REQUEST_BYTES)
        except OSError as error:
            raise NurseryLost(f"it does not answer: {error}") from error
        if not reply:
            raise NurseryLost("it has ended")
        answer: dict[str, int] = json.loads(reply)
        if "errno" in answer:
            code = answer["errno"]
            raise OSError(code, f"cannot fork: {os.strerror(code)}")
        return answer["pid"]

    def _bury(self, error: NurseryLost) -> None:
        if self._process is not None:
            failure = self._end(self._process)
            log.warning(
                "the process that others are forked from is lost (%s; %s): making it again", error, failure
            )

    def _end(self, process: Child) -> Failure:
        self._sock.close()
        # It and no other: until it is waited for here, nobody else has its number.
        os.kill(process.pid, signal.SIGKILL)
        failure = process.failure()
        process.close()
        self._process = None
        return failure


def main() -> None:
    """As a process of its own: `redirect.nursery MODULE SOCKET_FD`."""
    module, fd = sys.argv[1:]
    _live(socket.socket(fileno=int(fd)), module)


def _live(sock: socket.socket, module: str) -> None:
    """Fork whoever is ordered until the maker is gone. Does not return: those forked become what they shall be."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.chdir("/")
    # Before it makes anybody: they inherit that.
    child.ignore_what_means_nothing()
    importlib.import_module(module)
    # Its descendants share what was made so far; without this the collector would write into every object's head.
    gc.freeze()
    # It may have been put off before the fork, for the imports.
    gc.enable()
    while True:
        request, fds, _, _ = socket.recv_fds(sock, REQUEST_BYTES, FDS_MAX)
        if not request:
            # Not by way of the interpreter's end, which would touch, and so copy, everything that is shared.
            os._exit(0)
        fields = json.loads(request)
        order = Order(
            fields["module"], fields["report_fd"], tuple(fields["arguments"]), tuple(fields["numbers"])
        )
        answer = _fork(order, fds)
        if answer is None:
            sock.detach()
            _begin(order, fds)
        for fd in fds:
            os.close(fd)
        sock.send(json.dumps(answer).encode())


def _fork(order: Order, fds: Sequence[int]) -> dict[str, int] | None:
    """What the maker is told; None in the new process, which has become a child of the maker."""
    reading, writing = os.pipe()
    try:
        between = os.fork()
        if between == 0:
            _divide(writing)
            return None
        os.close(writing)
        writing = -1
        told = os.read(reading, 100)
        # From its end on the new process is the maker's child.
        os.waitpid(between, 0)
    except OSError as error:
        return {"errno": error.errno or 0}
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    answer: dict[str, int] = json.loads(told)
    return answer


def _divide(writing: int) -> None:
    """The process in between: fork the one that is wanted, tell of it, end. Returns in the new one only."""
    try:
        pid = os.fork()
    except OSError as error:
        os.write(writing, json.dumps({"errno": error.errno}).encode())
        os._exit(1)
    if pid:
        os.write(writing, json.dumps({"pid": pid}).encode())
        os._exit(0)


def _begin(order: Order, fds: Sequence[int]) -> None:
    """Become what was ordered, with the descriptors that came along under their numbers and no other."""
    os.setsid()
    above = max(order.numbers, default=2) + 1
    held = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in held and Path(f"/proc/self/fd/{fd}").exists():
            os.close(fd)
    for fd, number in zip(held, order.numbers, strict=True):
        os.dup2(fd, number, inheritable=False)
        os.close(fd)
    *_, waiting = order.numbers
    if not os.read(waiting, 1):
        os._exit(1)  # its maker is gone, or gave it up
    os.close(waiting)
    show_as(child.command(order.module, *order.arguments, report_fd=order.report_fd))
    child.become(order.module, order.report_fd, order.arguments)


def _adopt_descendants() -> None:
    """What is orphaned below this process becomes its child (prctl(2)). Raises OSError."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot become a subreaper: {os.strerror(code)}")
