"""New connections at a pace, both ends: the applications that tell chaos what pods see. Standard library only.

`python -S -E ends.py serve PORT [ADDRESS...]` echoes until each client ends; what comes from one of the addresses,
which policy denies, is counted apart. `ends.py visit HOST PORT EVERY_S PATIENCE_S` opens a connection every so often,
however long the ones before take; says one thing, hears it back, and the other end has to end as this one has. Both
say `ready` and then, for each line that they read, one JSON object; they end with their standard input.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections import Counter

WORDS = b"one visit of many" * 40
AT_ONCE = 60
"""Visits under way; where there are more none is begun, and that is told."""


class Served:
    """The echo of a port. `denied`: bytes by address that should have sent none."""

    def __init__(self, port: int, denied: frozenset[str]) -> None:
        self._listener = socket.create_server(("0.0.0.0", port), backlog=4096)
        self._denied = denied
        self.bytes_denied: Counter[str] = Counter()
        self.connections = 0

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        while True:
            connection, (host, _) = self._listener.accept()
            threading.Thread(target=self._echo, args=(connection, host), daemon=True).start()

    def _echo(self, connection: socket.socket, host: str) -> None:
        self.connections += 1
        with connection:
            try:
                while data := connection.recv(4096):
                    if host in self._denied:
                        self.bytes_denied[host] += len(data)
                    connection.sendall(data)
            except OSError:
                return  # the client tells how it ended


class Visits:
    """What became of visits, and which are under way: by the monotonic clock, which all processes share."""

    def __init__(self, host: str, port: int, patience_s: float) -> None:
        self._host, self._port, self._patience_s = host, port, patience_s
        self._lock = threading.Lock()
        self._done: list[tuple[float, float, str]] = []
        self._open: dict[int, float] = {}
        self._number = self._left_out = 0

    def begin(self) -> None:
        with self._lock:
            if len(self._open) >= AT_ONCE:
                self._left_out += 1
                return
            self._number += 1
            number = self._number
            self._open[number] = time.monotonic()
        threading.Thread(target=self._visit, args=(number,), daemon=True).start()

    def told(self) -> dict[str, object]:
        """`done`: when each began, how long it took, and what failed; `open`: when those began that have no end."""
        with self._lock:
            done, self._done = self._done, []
            left_out, self._left_out = self._left_out, 0
            return {"done": done, "open": sorted(self._open.values()), "left_out": left_out}

    def _visit(self, number: int) -> None:
        outcome = visited(self._host, self._port, self._patience_s)
        with self._lock:
            began_s = self._open.pop(number)
            self._done.append((began_s, time.monotonic() - began_s, outcome))


def visited(host: str, port: int, patience_s: float) -> str:
    """Empty where all went well; else the step and the error."""
    step = "connect"
    try:
        with socket.create_connection((host, port), patience_s) as connection:
            step = "say"
            connection.sendall(WORDS)
            connection.shutdown(socket.SHUT_WR)
            step = "hear"
            heard = b""
            while chunk := connection.recv(4096):
                heard += chunk
    except OSError as error:
        return f"{step}: {error}"
    if heard != WORDS:
        return f"wrong bytes: {heard[:40]!r}" if heard not in WORDS else f"it ended after {len(heard)} bytes"
    return ""


def serve(port: int, denied: list[str]) -> None:
    served = Served(port, frozenset(denied))
    threading.Thread(target=served.run, daemon=True).start()
    say(f"ready {served.port}")
    for _ in sys.stdin:
        say(json.dumps({"connections": served.connections, "denied": dict(served.bytes_denied)}))


def visit(host: str, port: int, every_s: float, patience_s: float) -> None:
    visits = Visits(host, port, patience_s)
    asked = select.poll()
    asked.register(sys.stdin, select.POLLIN)
    say("ready")
    due_s = time.monotonic()
    while True:
        if asked.poll(max(0.0, (due_s - time.monotonic()) * 1000)):
            if not sys.stdin.readline():
                return
            say(json.dumps(visits.told()))
        if time.monotonic() >= due_s:
            visits.begin()
            due_s = max(due_s + every_s, time.monotonic())


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: list[str]) -> None:
    kind, *rest = argv
    if kind == "serve":
        serve(int(rest[0]), rest[1:])
    else:
        visit(rest[0], int(rest[1]), float(rest[2]), float(rest[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
