"""A socket that is read and written no faster than its allowance says.

Put in the place of a socket's own `recv_into` and `send` (`pace` of a relay), so that relays without a limit have no
part in it. Where nothing may pass it is as if the socket were not ready: the relay waits as ever, and is told of
readiness anew once something may. Its back-pressure does the rest; nothing is cut.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Protocol

from agent.net.loop import Ready

EITHER = select.EPOLLIN | select.EPOLLOUT
"""Readiness alone, and no word of an end."""


class Allowance(Protocol):
    """Bytes that may pass, shared by all sockets of one client."""

    def draw(self, wanted: int) -> int:
        """How many of them may pass now."""

    def give_back(self, size: int) -> None:
        """So many of those did not."""

    def charge(self, size: int) -> None:
        """So many have passed unasked."""

    def wait(self, paced: PacedSocket) -> None:
        """Tell it to `go_on` when there is something again; from the loop, never from inside."""

    def forget(self, paced: PacedSocket) -> None:
        """It does not wait any more."""


class PacedSocket:
    """Belongs to a relay until `stop`. `on_ready` is what the relay's watch calls."""

    __slots__ = ("_allowance", "_on_ready", "_sock", "is_waiting")

    def __init__(self, sock: socket.socket, allowance: Allowance, on_ready: Ready) -> None:
        self._sock = sock
        self._allowance = allowance
        self._on_ready: Ready | None = on_ready
        self.is_waiting = False

    def stop(self) -> None:
        """Its relay has ended, or goes on elsewhere."""
        self._on_ready = None  # who holds this object
        if self.is_waiting:
            self.is_waiting = False
            self._allowance.forget(self)

    def go_on(self) -> None:
        self.is_waiting = False
        if self._on_ready is not None:
            # Which of both waited does not matter: a socket that is not ready says so.
            self._on_ready(EITHER)

    def charge(self, size: int) -> None:
        self._allowance.charge(size)

    def recv_into(self, memory: memoryview) -> int:
        """Raises what a socket's raises; BlockingIOError also where nothing may pass."""
        wanted = len(memory)
        granted = self._draw(wanted)
        size = 0
        try:
            size = self._sock.recv_into(memory[:granted])
        finally:
            self._give_back(granted - size)
        if size == granted < wanted:
            # There may be more, and no edge will tell.
            self._wait()
        return size

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Raises what a socket's raises; BlockingIOError also where nothing may pass."""
        wanted = len(data)
        granted = self._draw(wanted)
        size = 0
        try:
            with memoryview(data) as whole, whole[:granted] as part:
                size = self._sock.send(part)
        finally:
            self._give_back(granted - size)
        if size == granted < wanted:
            self._wait()
        return size

    def send_pieces(self, pieces: Sequence[memoryview]) -> int:
        """One after the other, as far as that goes. Raises only where nothing of them went."""
        total = 0
        for piece in pieces:
            try:
                size = self.send(piece)
            except BlockingIOError:
                if not total:
                    raise
                break
            total += size
            if size < len(piece):
                break
        return total

    def _draw(self, wanted: int) -> int:
        granted = self._allowance.draw(wanted)
        if not granted:
            self._wait()
            raise BlockingIOError
        return granted

    def _give_back(self, size: int) -> None:
        if size:
            self._allowance.give_back(size)

    def _wait(self) -> None:
        if not self.is_waiting and self._on_ready is not None:
            self.is_waiting = True
            self._allowance.wait(self)
