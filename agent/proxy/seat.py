"""One connection's place among those of its client at its pod, where a limit counts them (`limiter`).

Its registry entry holds it from the moment on that the connection is let in until it is over.
"""

from __future__ import annotations

from typing import Protocol

from agent.net.limit_table import LimitTable
from agent.net.pacing import PacedSocket
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from agent.proxy.meter import Meter

Relay = PlainRelay | TunnelRelay


class SeatOwner(Protocol):
    """Who gave it."""

    def left(self, seat: Seat) -> None:
        """It is free again."""

    def table(self) -> LimitTable: ...


class Seat:
    """One connection's place among those of its client at its pod."""

    __slots__ = ("_owner", "_paced", "_relay", "key", "meter", "row")

    def __init__(self, owner: SeatOwner, key: bytes, row: int) -> None:
        self._owner = owner
        self._relay: Relay | None = None
        self._paced: list[PacedSocket] = []
        self.key = key
        self.row = row
        """NO_ROOM and the like for one that was there already and could not be counted."""
        self.meter: Meter | None = None

    def pace(self, relay: Relay) -> None:
        """It is carried by this relay from now on."""
        self._relay = relay
        self.follow()

    def follow(self) -> None:
        """There may be a meter by now."""
        if self.meter is not None and self._relay is not None and not self._paced:
            self._paced = self._relay.pace(self.meter)

    def leave(self) -> None:
        """It is over."""
        self._let_go()
        if self.row >= 0:
            self._owner.table().leave(self.row)

    def park(self) -> None:
        """It goes on in another process."""
        self._let_go()
        if self.row >= 0:
            self._owner.table().park(self.row)

    def _let_go(self) -> None:
        self._owner.left(self)
        for paced in self._paced:
            paced.stop()
        self._paced, self._relay, self.meter = [], None, None  # they hold this object
