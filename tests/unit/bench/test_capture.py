"""The listening sockets of a running process, which the bench puts where ztun's would be: found by port and copied."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

from tests.bench.capture import listening_sockets

LISTEN_TWICE = """
import socket, sys
def bound(port, is_listening):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    if is_listening:
        sock.listen()
    return sock
first = bound(0, True)
port = first.getsockname()[1]
kept = [bound(port, True), bound(port, False), bound(0, True), socket.socketpair(), open("/dev/null")]
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", port))
print(port, flush=True)
sys.stdin.read()
"""


def test_all_listeners_of_a_port_are_copied_and_nothing_else() -> None:
    command = [sys.executable, "-S", "-E", "-c", LISTEN_TWICE]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = [stack.enter_context(sock) for sock in listening_sockets(process.pid, port)]
        assert len(found) == 2
        process.kill()
        process.wait()
        # The copies are the sockets themselves: they still take connections when the process is gone.
        with socket.create_connection(("127.0.0.1", port), 5):
            pass


def test_a_process_that_has_ended_listens_to_nothing() -> None:
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", ""], stdin=subprocess.PIPE) as process:
        # The kernel keeps its number until somebody waits for it.

        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert list(listening_sockets(process.pid, 1)) == []
