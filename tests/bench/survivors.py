"""Connections that live on: the applications of `scripts/bench survive`, both ends, and every byte is checked.

`python -S -E survivors.py serve PORT` echoes until it is killed. `survivors.py live HOST PORT CALM BULK [PACE]` opens
CALM connections that say a word every half a second, and BULK that send without end at a pace in bytes a second; each
byte that comes back has to be the one that was sent there. It says `ready`, and then for each line that it reads what
happened since the line before, as one JSON object; it ends with its standard input. Standard library only.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator

CHUNK_BYTES = 1 << 15
WORD_BYTES = 128
PAUSE_S = 0.5
"""From the answer to the next word of a calm connection."""
PACE_BYTES_PER_S = 4e6
PATIENCE_S = 30.0
"""A word that is not answered in this time is lost."""
TURN_S = 0.02
PATTERN_BYTES = 65_521
"""A prime: what was lost or came twice cannot fall on the same bytes again. More than a chunk."""


def pattern(number: int) -> bytes:
    """What connection `number` says, over and over."""
    text = b"%d of many;" % number
    return (text * (PATTERN_BYTES // len(text) + 1))[:PATTERN_BYTES]


class Said:
    """The endless text of one connection, by offset."""

    __slots__ = ("_twice",)

    def __init__(self, number: int) -> None:
        self._twice = pattern(number) * 2

    def part(self, offset: int, size: int) -> bytes:
        """At most PATTERN_BYTES of it."""
        at = offset % PATTERN_BYTES
        return self._twice[at : at + size]


class Living:
    """A connection, and how far it has come."""

    __slots__ = ("asked_s", "due_s", "heard", "is_bulk", "said", "sent", "sock", "wanted")

    def __init__(self, sock: socket.socket, number: int, *, is_bulk: bool) -> None:
        self.sock = sock
        self.said = Said(number)
        self.is_bulk = is_bulk
        self.sent = self.heard = self.wanted = 0
        """Bytes that were sent, that came back, and that shall have been sent by now."""
        self.asked_s = self.due_s = 0.0


class Crowd:
    """All of them in one loop."""

    def __init__(
        self, address: tuple[str, int], calm: int, bulk: int, pace: float = PACE_BYTES_PER_S
    ) -> None:
        self._pace = pace
        self._epoll = select.epoll()
        self._scratch = memoryview(bytearray(CHUNK_BYTES))
        self._living: dict[int, Living] = {}
        self.lost: Counter[str] = Counter()
        self._round_trips_s: list[float] = []
        self._echoed = 0
        for number in range(calm + bulk):
            sock = socket.create_connection(address, PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            living = self._living[sock.fileno()] = Living(sock, number, is_bulk=number >= calm)
            living.due_s = time.monotonic() + PAUSE_S * number / calm if calm else 0.0
            self._epoll.register(sock, select.EPOLLIN)
        self._paced_s = time.monotonic()

    def told(self) -> dict[str, object]:
        """What happened since the last time; those that were lost are told for good."""
        took, self._round_trips_s = sorted(self._round_trips_s), []
        echoed, self._echoed = self._echoed, 0
        return {
            "alive": len(self._living),
            "lost": self.lost.total(),
            "why": dict(self.lost),
            "words": len(took),
            "p50_s": took[len(took) // 2] if took else 0.0,
            "p99_s": took[len(took) * 99 // 100] if took else 0.0,
            "longest_s": took[-1] if took else 0.0,
            "bulk_bytes": echoed,
            "waits_s": self._waits_s(),
        }

    def _waits_s(self) -> float:
        """How long the oldest word has been waiting for its answer."""
        asked = [living.asked_s for living in self._living.values() if living.asked_s]
        return time.monotonic() - min(asked) if asked else 0.0

    def turn(self) -> None:
        now_s = time.monotonic()
        passed_s, self._paced_s = now_s - self._paced_s, now_s
        for fd, living in list(self._living.items()):
            if living.is_bulk:
                living.wanted += int(self._pace * passed_s)
                self._send(fd, living)
            elif living.asked_s:
                if now_s - living.asked_s > PATIENCE_S:
                    self._lose(fd, f"no answer in {PATIENCE_S:g} s")
            elif now_s >= living.due_s:
                living.wanted += WORD_BYTES
                living.asked_s = now_s
                self._send(fd, living)
        until_s = now_s + TURN_S
        while (left_s := until_s - time.monotonic()) > 0:
            for fd, _ in self._epoll.poll(left_s, 512):
                if fd in self._living:
                    self._hear(fd, self._living[fd])

    def close(self) -> None:
        for living in self._living.values():
            living.sock.close()
        self._living.clear()
        self._epoll.close()

    def _send(self, fd: int, living: Living) -> None:
        try:
            while living.sent < living.wanted:
                part = living.said.part(living.sent, min(living.wanted - living.sent, CHUNK_BYTES))
                living.sent += living.sock.send(part)
        except BlockingIOError:
            # Bulk that the mesh holds back is not owed later: the pace is a bound, no debt.
            if living.is_bulk:
                living.wanted = living.sent
        except OSError as error:
            self._lose(fd, f"send: {error}")

    def _hear(self, fd: int, living: Living) -> None:
        try:
            size = living.sock.recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(fd, f"receive: {error}")
            return
        if not size:
            self._lose(fd, f"it ended after {living.heard} bytes, of {living.sent} sent")
        elif self._scratch[:size] != living.said.part(living.heard, size):
            self._lose(fd, f"wrong bytes from {living.heard} on")
        else:
            living.heard += size
            if living.is_bulk:
                self._echoed += size
            elif living.heard == living.wanted:
                now_s = time.monotonic()
                self._round_trips_s.append(now_s - living.asked_s)
                living.asked_s, living.due_s = 0.0, now_s + PAUSE_S

    def _lose(self, fd: int, why: str) -> None:
        self.lost[f"{'bulk' if self._living[fd].is_bulk else 'calm'}: {why}"] += 1
        self._epoll.unregister(fd)
        self._living.pop(fd).sock.close()


class Echo:
    """Every connection of one port, with what each has not taken back yet."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("0.0.0.0", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._socks: dict[int, socket.socket] = {}
        self._held: dict[int, bytearray] = {}

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        sys.stdout.write(f"ready {self.port}\n")
        sys.stdout.flush()
        while True:
            for fd, mask in self._epoll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                    continue
                try:
                    self._serve(fd, mask)
                except BlockingIOError:
                    continue
                except OSError:
                    self._close(fd)

    def _accept(self) -> None:
        for sock in accepted(self._listener):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socks[sock.fileno()], self._held[sock.fileno()] = sock, bytearray()
            self._epoll.register(sock, select.EPOLLIN)

    def _serve(self, fd: int, mask: int) -> None:
        sock, held = self._socks[fd], self._held[fd]
        if mask & select.EPOLLIN and not held:
            data = sock.recv(CHUNK_BYTES)
            if not data:
                self._close(fd)
                return
            held += data
        if held:
            try:
                del held[: sock.send(held)]
            finally:
                self._epoll.modify(fd, select.EPOLLOUT if held else select.EPOLLIN)

    def _close(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._socks.pop(fd).close()
        del self._held[fd]


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    try:
        while True:
            yield listener.accept()[0]
    except BlockingIOError:
        return


def live(host: str, port: int, calm: int, bulk: int, pace: int = int(PACE_BYTES_PER_S)) -> None:
    crowd = Crowd((host, port), calm, bulk, pace)
    asked = select.poll()
    asked.register(sys.stdin, select.POLLIN)
    sys.stdout.write("ready\n")
    while True:
        sys.stdout.flush()
        while not asked.poll(0):
            crowd.turn()
        if not sys.stdin.readline():
            return
        sys.stdout.write(json.dumps(crowd.told()) + "\n")


def main(argv: list[str]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kind, *rest = argv
    if kind == "serve":
        Echo(int(rest[0])).run()
    else:
        live(rest[0], *map(int, rest[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
