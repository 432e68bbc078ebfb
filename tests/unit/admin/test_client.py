"""What is said of an agent that does not answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.admin import client

SILENT = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
sys.stdin.read()
"""


def said(path: Path) -> str:
    with pytest.raises(client.AgentAbsent) as caught:
        client.ask(path, "GET", "/status", patience_s=0.1)
    return str(caught.value)


def test_that_it_is_stopped_and_how_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = [sys.executable, "-c", SILENT, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert said(path).endswith(f"0.1 s: process {process.pid} hangs or has too much to do")
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert f"process {process.pid} is stopped; `kill -CONT {process.pid}` lets it go on" in said(path)
        process.kill()


def test_nothing_is_said_of_a_process_that_is_not_known(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unconnected:
        assert client.state_of(None) == client.state_of(unconnected) == ""
