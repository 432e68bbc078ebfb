"""Connections out of pods, made by this process in their namespaces, and what of them is seen between the nodes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from socket import inet_ntoa

from redirect.netns import entered
from tests.cluster.kubernetes import wait

ETH_P_ALL = 3
MARKER = b"the-marker"
PORT = 8080
PODS = "10.89."


def pid_of(uid: str) -> int:
    """Any process of a pod. Raises LookupError."""
    found = next(pids_of(uid), None)
    if found is None:
        raise LookupError(f"no process of pod {uid}")
    return found


def pids_of(uid: str) -> Iterator[int]:
    """All processes of a pod."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                if f"pod{uid}" in (directory / "cgroup").read_text():
                    yield int(directory.name)
            except OSError:
                continue  # it ended meanwhile


def connected(uid: str, host: str, port: int = PORT, patience_s: float = 20.0) -> socket.socket:
    """A connection from a pod. Raises OSError."""
    with entered(Path(f"/proc/{pid_of(uid)}/ns/net")):
        return socket.create_connection((host, port), patience_s)


def ask(uid: str, host: str, port: int = PORT, patience_s: float = 20.0) -> str:
    """What a server says to one line from a pod: its name and who asked. Raises OSError; ConnectionError: no answer."""
    with connected(uid, host, port, patience_s) as sock:
        sock.sendall(MARKER + b"\n")
        said = sock.recv(200).decode().strip()
    if not said:
        raise ConnectionError("closed without an answer")
    return said


def refused(uid: str, host: str, port: int = PORT, patience_s: float = 3.0) -> bool:
    try:
        ask(uid, host, port, patience_s)
    except OSError:
        return True
    return False


def passes(uid: str, host: str, port: int = PORT) -> bool:
    """However long it takes: a machine that is busy refuses nobody."""
    return not refused(uid, host, port, patience_s=20)


class Wire:
    """What passes between the nodes, seen where it passes, from `start` to `stop`."""

    def __init__(self, control_pid: int) -> None:
        with entered(Path(f"/proc/{control_pid}/ns/net")):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._socket.bind(("port1", 0))
        self._socket.settimeout(0.2)
        self.markers = self.tunnels = self.plain = 0
        """Frames with our words in clear, packets of HBONE, SYNs of pods to a server's own port."""
        self.pairs: dict[str, str] = {}
        """Whose those SYNs were, `ADDRESS > ADDRESS`, and when the first of them was seen."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                frame = self._socket.recv(65536)
            except TimeoutError:
                continue
            self.markers += MARKER in frame
            if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
                start = 14 + (frame[14] & 15) * 4
                ports = {int.from_bytes(frame[at : at + 2]) for at in (start, start + 2)}
                self.tunnels += 15008 in ports
                is_syn = frame[start + 13] & 0x12 == 0x02
                source, target = (inet_ntoa(frame[at : at + 4]) for at in (26, 30))
                # A kubelet asks a pod that has just been taken down: there is no way to it but the one out.
                is_of_a_pod = source.startswith(PODS)
                if is_syn and is_of_a_pod and int.from_bytes(frame[start + 2 : start + 4]) == PORT:
                    self.plain += 1
                    now = datetime.now(UTC).strftime("%H:%M:%S.%f")
                    self.pairs.setdefault(f"{source} > {target}", now)

    def shows_nothing(self) -> None:
        """Raises AssertionError where anything was in clear."""
        assert not self.plain and not self.markers, (
            f"{self.plain} SYNs and {self.markers} times the words in clear: {self.pairs}"
        )

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)  # what was sent has passed
        self._stopped.set()
        self._thread.join()
        self._socket.close()


class Load:
    """New connections one after the other and `live` that live, from `start` to `stop`, with what became of them.

    A Service has many behind it: what lives is with one of them, and goes with it (`live=0`).
    """

    def __init__(self, uid: str, host: str, port: int = PORT, *, live: int = 1) -> None:
        self._uid, self._place, self._live = uid, (host, port), live
        self._stopped = threading.Event()
        self.asked = self.failed = self.resets = 0
        self.longest_s = self.paused_s = 0.0
        """The slowest new request; the slowest answer on a connection that lives."""
        self.reasons: set[str] = set()
        work = (self._ask, *(self._keep for _ in range(live)))
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(70)

    def goes_on(self) -> None:
        """Returns after twenty more requests."""
        asked = self.asked
        wait("twenty more requests", lambda: self.asked > asked + 20, 60)

    def told(self) -> str:
        said = f"{self.asked} new requests, {self.failed} failed, the slowest took {self.longest_s:.1f} s"
        if not self._live:
            return said
        whom = "a live connection" if self._live == 1 else f"{self._live} live ones"
        return f"{said}; {self.resets} resets of {whom} (slowest answer there: {self.paused_s:.1f} s)"

    def nothing_is_lost(self, what: str) -> str:
        """What came of it, beneath that name. Raises AssertionError where anything was lost."""
        said = f"{what}: {self.told()}"
        assert self.asked and not self.failed and not self.resets, f"{said}: {sorted(self.reasons)}"
        return said

    def _ask(self) -> None:
        with entered(Path(f"/proc/{pid_of(self._uid)}/ns/net")):
            while not self._stopped.wait(0.05):
                began_s = time.monotonic()
                self.asked += 1
                try:
                    with socket.create_connection(self._place, 60) as sock:
                        sock.sendall(b"x\n")
                        if not sock.recv(200):
                            raise ConnectionError("closed without an answer")
                except OSError as error:
                    self.failed += 1
                    self.reasons.add(str(error))
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def _keep(self) -> None:
        with entered(Path(f"/proc/{pid_of(self._uid)}/ns/net")):
            while not self._stopped.is_set():
                try:
                    with socket.create_connection(self._place, 60) as sock:
                        first = b""
                        while not self._stopped.wait(0.2):
                            began_s = time.monotonic()
                            sock.sendall(b"x\n")
                            said = sock.recv(200)
                            self.paused_s = max(self.paused_s, time.monotonic() - began_s)
                            if not said or said != (first or said):
                                raise ConnectionError(f"it says {said!r}, and said {first!r}")
                            first = said
                except OSError as error:
                    self.reasons.add(f"live: {error}")
                    self.resets += 1
                    self._stopped.wait(0.2)
