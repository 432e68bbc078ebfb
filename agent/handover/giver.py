"""The giver's side of a hand-over, as a machine without IO: what it may say when, and what the taker's words mean.

One unit at a time is under way: offered, then answered, then given by Go or kept by No. Until Go is on its way the
unit is the giver's, and from then on the taker's, so that at no time both go on with it: two owners of one TLS
sequence would seal two texts with one nonce. **A giver that lives says No before it goes on with a unit that it has
offered**, for its silence means to the taker that it is dead, and then the unit is the taker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from agent.handover.messages import Done, Go, Hello, Message, No, Offer, ProtocolError, Ready, Refused


class _Stage(Enum):
    WAITING = auto()
    """For the taker's Hello."""
    FREE = auto()
    OFFERED = auto()
    OVER = auto()
    """Nothing more is offered; Done may be said."""
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Greeted:
    """The taker is there. `format`: of the units to offer; 0: it takes none that this process gives."""

    format: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Say `go`, and let go of the unit when that is sent."""


@dataclass(frozen=True, slots=True)
class Declined:
    """Go on with the unit; the taker has let go of it."""

    reason: str


Answer = Greeted | Accepted | Declined


class Giver:
    """`formats`: those that this process gives, the best first."""

    def __init__(self, formats: Sequence[int]) -> None:
        self._formats = formats
        self._stage = _Stage.WAITING
        self._format = 0
        self._number = 0

    @property
    def is_free(self) -> bool:
        """A unit may be offered."""
        return self._stage is _Stage.FREE

    @property
    def is_waiting(self) -> bool:
        """For an answer: the unit that is offered is nobody's to go on with."""
        return self._stage is _Stage.OFFERED

    def receive(self, message: Message) -> Answer | None:
        """What the taker has said; None: it is about nothing any more. Raises ProtocolError."""
        match message:
            case Hello() if self._stage is _Stage.WAITING:
                self._format = next((each for each in self._formats if each in message.formats), 0)
                self._stage = _Stage.FREE if self._format else _Stage.OVER
                return Greeted(self._format)
            case Ready() | Refused() if self._stage is _Stage.OFFERED and message.number == self._number:
                if isinstance(message, Ready):
                    return Accepted()
                self._stage = _Stage.FREE
                return Declined(message.reason)
            # It crosses the No to its unit.
            case Ready() | Refused() if self._stage is _Stage.OVER and 0 < message.number <= self._number:
                return None
        raise ProtocolError(f"the taker said {type(message).__name__} out of turn")

    def offer(self, data: bytes, fds: Sequence[int]) -> Offer:
        """The unit as it is to be sent. From then on nobody goes on with it here."""
        assert self._stage is _Stage.FREE, "one at a time"
        self._stage = _Stage.OFFERED
        self._number += 1
        return Offer(self._number, self._format, data, len(fds), tuple(fds))

    def go(self) -> Go:
        """To an accepted unit."""
        assert self._stage is _Stage.OFFERED, "what was offered"
        self._stage = _Stage.FREE
        return Go(self._number)

    def no(self) -> No | None:
        """Offer nothing more; what is to be said before the unit under way is gone on with, None where none is."""
        was_offered = self._stage is _Stage.OFFERED
        if self._stage is not _Stage.DONE:
            self._stage = _Stage.OVER
        return No(self._number) if was_offered else None

    def done(self, final: bytes) -> Done:
        """At the end of the process. What is under way was ended by `no`."""
        assert self._stage is not _Stage.OFFERED, "a unit is under way"
        self._stage = _Stage.DONE
        return Done(final)
