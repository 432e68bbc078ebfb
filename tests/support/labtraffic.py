"""Traffic in a lab, its ends in the test's own hands: applications, clients, a look at the wire, at logs, at time."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from agent.lab import probes
from agent.lab.wiring import UPLINK
from agent.model.listener import HBONE
from redirect.netns import entered

T = TypeVar("T")
PATIENCE_S = 30.0
ETH_P_ALL = 3
ARP, IPV6, ICMPV6 = b"\x08\x06", b"\x86\xdd", 58


def until(condition: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true answer. Fails with `what` when none comes."""
    deadline = time.monotonic() + patience_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}"
        time.sleep(0.02)


def wait_gone(pid: int) -> None:
    """Return when a process is dead with all of its threads: only then are its sockets closed."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # A leader that is a zombie says nothing of its threads; a pidfd is readable when the last one has gone.
        ready, _, _ = select.select([pidfd], [], [], PATIENCE_S)
    finally:
        os.close(pidfd)
    assert ready, f"process {pid} does not end"


class Application:
    """A probe server (agent.lab.probes) in a namespace, on threads. `clients` are the addresses it has seen."""

    def __init__(self, netns: Path, kind: str, port: int) -> None:
        with entered(netns):
            self._listener = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256
            )
        self._handler = probes.SERVERS[kind]
        self.clients: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            host = peer[0].removeprefix("::ffff:")
            client = f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}"
            self.clients.append(client)
            threading.Thread(target=self._serve, args=(connection, client), daemon=True).start()

    def _serve(self, connection: socket.socket, client: str) -> None:
        with connection:
            try:
                self._handler(connection, client)
            except OSError:
                pass  # clients are reset by many tests


class Talk:
    """A connection to a marker server. `say` is one round trip."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._stream = sock.makefile("rwb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what was still to be sent cannot be
            self._stream.close()
        self.sock.close()

    @property
    def address(self) -> str:
        """This end, as access logs write it."""
        host, port = self.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def say(self, text: str = "hello") -> dict[str, str]:
        """What the server answered: `client` is who it saw, `server` its own address."""
        self._stream.write(text.encode() + b"\n")
        self._stream.flush()
        line = self._stream.readline()
        if not line:
            raise ConnectionResetError("the connection ended before the answer")
        answer: dict[str, str] = json.loads(line)
        assert answer["text"] == text
        return answer

    def is_ended(self) -> bool:
        """Whether the other end has closed or reset it by now."""
        self.sock.settimeout(0)
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.sock.settimeout(PATIENCE_S)


class Sniffer:
    """Packets on the link between the nodes that carry an address, as source or destination."""

    def __init__(self, netns: Path, address: str, ifname: str = UPLINK) -> None:
        self._needle = ip_address(address).packed
        with entered(netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._socket.bind((ifname, ETH_P_ALL))
        self._socket.setblocking(False)
        self._frames: list[bytes] = []

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(self, *_: object) -> None:
        _ = self.frames
        self._socket.close()

    @property
    def frames(self) -> list[bytes]:
        """All so far."""
        while self._socket.fileno() >= 0:
            try:
                frame = self._socket.recv(65536)
            except BlockingIOError:
                break
            # Addresses of either version lie in these bytes; ARP and neighbour discovery are not traffic.
            if frame[12:14] != ARP and self._needle in frame[26:54] and frame[20] != ICMPV6:
                self._frames.append(frame)
        return self._frames

    @property
    def in_clear(self) -> list[bytes]:
        """But for HBONE: of that a peer may send again what was lost, long after."""
        return [frame for frame in self.frames if HBONE.port not in ports(frame)]


def ports(frame: bytes) -> tuple[int, int]:
    """Of TCP or UDP, without options of IPv4."""
    start = 14 + (40 if frame[12:14] == IPV6 else 20)
    source, destination = struct.unpack_from("!HH", frame, start)
    return source, destination


class LogReader:
    """New lines of an agent's log, workers' access log included, since it was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size

    def lines(self, *fragments: str) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._start)
            text = file.read().decode(errors="replace")
        # The last one may be half written yet.
        whole = text[: text.rfind("\n") + 1]
        return [line for line in whole.splitlines() if all(part in line for part in fragments)]

    def line(self, *fragments: str) -> str:
        """The first line with all fragments; waits for it."""
        return until(lambda: self.lines(*fragments), f"a log line with {fragments}")[0]
