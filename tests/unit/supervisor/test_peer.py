"""Who is at the other end of a worker's socket: the kernel's word, also where another process bound it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.supervisor.orphans import end_all
from agent.supervisor.peer import is_at_home, listening_pid
from tests.support.crews import is_alive, stop

PATIENCE_S = 20.0
LISTEN = "import signal, socket, sys; s = socket.socket(fileno=int(sys.argv[1])); {}; print(flush=True); signal.pause()"


@contextmanager
def holder(path: Path, does: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that was given the socket bound at `path`, which this one let listen, as a control process does."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        argv = [sys.executable, "-S", "-E", "-c", LISTEN.format(does), str(listening.fileno())]
        process = subprocess.Popen(argv, pass_fds=(listening.fileno(),), stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def pid_behind(path: Path) -> int | None:
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.connect(str(path))
        return listening_pid(sock, path)


@pytest.mark.parametrize("does", ["s.listen()", "pass"], ids=["listens", "was only given the socket"])
def test_the_process_that_holds_the_socket_is_found(tmp_path: Path, does: str) -> None:
    path = tmp_path / "worker-0-1.sock"
    with holder(path, does) as process:
        assert pid_behind(path) == process.pid


def test_orphans_are_ended_also_those_that_hang_and_their_names_go(tmp_path: Path) -> None:
    paths = [tmp_path / f"worker-{slot}-1.sock" for slot in (0, 1)]
    with holder(paths[0], "s.listen()") as one, holder(paths[1], "s.listen()") as two:
        stop(two.pid)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "worker-2-1.sock"))
        assert end_all(tmp_path) == [one.pid, two.pid]
        assert not is_alive(one.pid) and not is_alive(two.pid)
    assert not list(tmp_path.iterdir())
    assert end_all(tmp_path) == []


def test_home_is_where_threads_and_listeners_are() -> None:
    here = "/proc/self/ns/net"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert is_at_home(os.getpid(), [(sock, here), (sock, None)], [here])
        assert not is_at_home(os.getpid(), [], ["/proc/self/ns/mnt"])
        assert not is_at_home(os.getpid(), [(sock, "/proc/self/ns/mnt")], [here])
        assert not is_at_home(os.getpid(), [], ["/run/netns/nobody"])
    assert not is_at_home(2**22, [], [here]), "nobody has that pid"
