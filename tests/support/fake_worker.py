"""A worker without a data plane, as a process of its own: it speaks the channel, accepts, and echoes.

Started by a Recruiter like a real one. Its options: `lair`, a directory with files `SLOT.MANNER` (which the first
worker of that slot takes and behaves by), `formats` of the units that it gives and takes, with blanks between (none: it
is of protocol 0), and whatever makes a version. Ask("heard") answers what it was told. What it hands over is sockets.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from agent.channel import (
    Answer,
    Applied,
    Ask,
    ChannelError,
    Drain,
    HandedOver,
    HandOver,
    Hello,
    Leaving,
    Listeners,
    Message,
    Release,
    Resources,
    Stats,
    TakeOver,
    with_fds,
)
from agent.channel_socket import Channel

STATS_EVERY_S = 0.02
SILENT, DEAF, BREAKS, LIES = "silent", "deaf", "breaks", "lies"
KEEPS, REFUSES, LATE = "keeps", "refuses", "late"
"""It does not begin when it is to hand over; it does not answer when it is to take over; its first hand-over fails."""


class FakeWorker:
    """One process's worth; `run` until told to drain and nothing is left."""

    def __init__(
        self, slot: int, version: str, manner: str, formats: list[int], listening: socket.socket
    ) -> None:
        self.slot, self.version, self.manner, self.formats = slot, version, manner, formats
        self.heard: list[str] = []
        self.channel: Channel | None = None
        self.deadline_s: float | None = None
        self.served: dict[tuple[int, str], socket.socket] = {}
        self.open: set[socket.socket] = set()
        self.selector = selectors.DefaultSelector()
        listening.setblocking(False)
        # As a real worker does: from here on it is this process that listens.
        listening.listen()
        self.selector.register(listening, selectors.EVENT_READ, self.greet)

    def greet(self, listening: socket.socket) -> None:
        if self.channel is not None:
            self.obey(self.channel.sock)
        self.part()
        sock, _ = listening.accept()
        self.channel = Channel(sock)
        self.selector.register(sock, selectors.EVENT_READ, self.obey)
        pid = 1 if self.manner == LIES else os.getpid()
        hello = Hello(
            self.slot,
            pid,
            list(self.served),
            self.version,
            self.deadline_s is not None,
            int(bool(self.formats)),
            self.formats,
        )
        self.channel.send(hello, [sock.fileno() for sock in self.served.values()])

    def part(self) -> None:
        if self.channel is not None:
            self.selector.unregister(self.channel.sock)
            self.channel.close()
            self.channel = None

    def obey(self, _: socket.socket) -> None:
        assert self.channel is not None
        try:
            for message, fds in self.channel.receive():
                self.heard.append(type(message).__name__)
                self.carry_out(message, fds)
        except ChannelError:
            self.part()

    def carry_out(self, message: Message, fds: list[int]) -> None:
        match message:
            case Resources() if self.manner == BREAKS:
                self.part()
            case Resources() if self.manner != DEAF:
                self.say(Applied(message.revision))
            case Listeners():
                assert self.deadline_s is None, "listeners for a worker that drains"
                for name, fd in with_fds(message.names, fds):
                    sock = self.served[message.owner, name] = socket.socket(fileno=fd)
                    sock.setblocking(False)
                    self.selector.register(sock, selectors.EVENT_READ, self.accept)
            case Release():
                self.release(message.owner)
            case TakeOver() if self.manner != REFUSES:
                line = socket.socket(fileno=fds[0])
                self.selector.register(line, selectors.EVENT_READ, self.take)
                self.say(Answer(message.number, None))
            case HandOver() if self.manner == LATE:
                os.close(fds[0])
                self.manner = ""
                self.say(HandedOver([], [("late", len(self.open))], 1.0, 1.0, "not in time"))
            case HandOver():
                if self.manner != KEEPS:
                    self.give(socket.socket(fileno=fds[0]))
                for owner in {owner for owner, _ in self.served}:
                    self.release(owner)
                self.deadline_s = time.monotonic() + message.patience_s + message.drain_s
                self.manner = ""
            case Drain():
                self.deadline_s = time.monotonic() + message.deadline_s
                for owner in {owner for owner, _ in self.served}:
                    self.release(owner)
            case Ask():
                self.say(Answer(message.number, self.heard))

    def release(self, released: int) -> None:
        for owner, name in list(self.served):
            if owner == released:
                sock = self.served.pop((owner, name))
                self.selector.unregister(sock)
                sock.close()

    def give(self, line: socket.socket) -> None:
        moved, failure = 0, ""
        with line:
            for sock in tuple(self.open):
                try:
                    socket.send_fds(line, [b"x"], [sock.fileno()])
                except OSError as error:
                    failure = f"{error}"
                    break
                self.open.discard(sock)
                self.selector.unregister(sock)
                sock.close()
                moved += 1
        left = [("it is gone", len(self.open))] if self.open else []
        self.say(HandedOver([("socket", moved)], left, 0.1, 0.01, failure))

    def take(self, line: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(line, 1, 1)
        for fd in fds:
            sock = socket.socket(fileno=fd)
            self.open.add(sock)
            self.selector.register(sock, selectors.EVENT_READ, self.echo)
        if not data:
            self.selector.unregister(line)
            line.close()

    def accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return  # another worker was faster
        self.open.add(sock)
        self.selector.register(sock, selectors.EVENT_READ, self.echo)

    def echo(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
            sock.sendall(data)
        except OSError:
            data = b""
        if not data:
            self.open.discard(sock)
            self.selector.unregister(sock)
            sock.close()

    def say(self, message: Message) -> None:
        if self.channel is not None and self.manner != SILENT:
            # Where nobody is left the end is found by reading, behind the last orders.
            with suppress(ChannelError):
                self.channel.send(message)

    @property
    def is_done(self) -> bool:
        return self.deadline_s is not None and (not self.open or time.monotonic() >= self.deadline_s)

    def run(self) -> None:
        reported_s = 0.0
        while not self.is_done:
            for key, _ in self.selector.select(STATS_EVERY_S):
                # One that was closed in this turn is not ready for anything.
                if key.fileobj.fileno() >= 0:
                    key.data(key.fileobj)
            if time.monotonic() - reported_s >= STATS_EVERY_S:
                reported_s = time.monotonic()
                self.say(Stats({"process": str(os.getpid())}, len(self.open)))
        self.say(Stats({"process": str(os.getpid()), "last": True}, len(self.open)))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("slot", "channel-fd"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("version", "build", "config", "pod-netns", "net-netns"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    manner, options = "", json.loads(args.config)
    for order in Path(options["lair"]).glob(f"{args.slot}.*"):
        manner = order.suffix[1:]
        order.unlink()
    if manner == "fails":
        raise SystemExit("it was told to fail")
    formats = [*map(int, options["formats"].split())]
    worker = FakeWorker(args.slot, args.version, manner, formats, socket.socket(fileno=args.channel_fd))
    signal.signal(signal.SIGTERM, lambda *_: worker.say(Leaving()))
    worker.run()
