"""Connections out of pods, made by this process in their namespaces, and what of them is seen between the nodes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from redirect.netns import entered

ETH_P_ALL = 3
MARKER = b"the-marker"
PORT = 8080


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
        """Frames with our words in clear, packets of HBONE, SYNs to a server's own port."""
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
                self.plain += is_syn and int.from_bytes(frame[start + 2 : start + 4]) == PORT

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)  # what was sent has passed
        self._stopped.set()
        self._thread.join()
        self._socket.close()


class Load:
    """New connections one after the other and one that lives, from `start` to `stop`, with what became of them."""

    def __init__(self, uid: str, host: str) -> None:
        self._uid, self._host = uid, host
        self._stopped = threading.Event()
        self.asked = self.failed = self.resets = 0
        self.longest_s = 0.0
        self.reasons: set[str] = set()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._ask, self._keep)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(70)

    def told(self) -> str:
        return (
            f"{self.asked} new requests, {self.failed} failed, the slowest took {self.longest_s:.1f} s; "
            f"{self.resets} resets of a live connection"
        )

    def _ask(self) -> None:
        with entered(Path(f"/proc/{pid_of(self._uid)}/ns/net")):
            while not self._stopped.wait(0.05):
                began_s = time.monotonic()
                self.asked += 1
                try:
                    with socket.create_connection((self._host, PORT), 60) as sock:
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
                    with socket.create_connection((self._host, PORT), 60) as sock:
                        while not self._stopped.wait(0.2):
                            sock.sendall(b"x\n")
                            if not sock.recv(200):
                                raise ConnectionError("closed")
                except OSError:
                    self.resets += 1
                    self._stopped.wait(0.2)
