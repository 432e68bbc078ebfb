"""The taker's side of a hand-over, as a machine without IO: what it may do with a unit, and when.

It builds what it is offered without starting it, says so, and starts it at Go. At No it forgets it. **The end of a
giver that has said neither is Go**: the giver is dead, for one that lives says No before it goes on (`giver`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from agent.handover.messages import Done, Go, Hello, Message, No, Offer, ProtocolError, Ready, Refused


class _Stage(Enum):
    FREE = auto()
    OFFERED = auto()
    """To be built."""
    BUILT = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Build:
    """Build this, without starting it; then say `ready` or `refused`. Its descriptors are the caller's."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Start:
    """What was built is this process's to go on with."""


@dataclass(frozen=True, slots=True)
class Forget:
    """What was built, or what is still being built, is the giver's: close it, and say nothing on it."""


@dataclass(frozen=True, slots=True)
class Inherit:
    """The giver ends, and has counted so much."""

    final: bytes


Order = Build | Start | Forget | Inherit


class Taker:
    """`formats`: those of the units that this process takes."""

    def __init__(self, formats: Sequence[int]) -> None:
        self._formats = tuple(formats)
        self._stage = _Stage.FREE
        self._number = 0

    def hello(self) -> Hello:
        """The first word."""
        return Hello(self._formats)

    def receive(self, message: Message) -> Order:
        """What the giver has said. Raises ProtocolError; an Offer's descriptors are closed then."""
        match message:
            case Offer():
                if self._stage is not _Stage.FREE or message.number != self._number + 1:
                    message.close()
                    raise ProtocolError(f"unit {message.number} is offered out of turn")
                self._stage = _Stage.OFFERED
                self._number = message.number
                return Build(message)
            case Go() if self._stage is _Stage.BUILT and message.number == self._number:
                self._stage = _Stage.FREE
                return Start()
            # Also of a unit that was refused meanwhile.
            case No() if self._stage is not _Stage.DONE and message.number == self._number > 0:
                self._stage = _Stage.FREE
                return Forget()
            case Done() if self._stage is _Stage.FREE:
                self._stage = _Stage.DONE
                return Inherit(message.final)
        raise ProtocolError(f"the giver said {type(message).__name__} out of turn")

    def ready(self) -> Ready:
        assert self._stage is _Stage.OFFERED, "what was offered"
        self._stage = _Stage.BUILT
        return Ready(self._number)

    def refused(self, reason: str) -> Refused:
        assert self._stage is _Stage.OFFERED, "what was offered"
        self._stage = _Stage.FREE
        return Refused(self._number, reason)

    def ended(self) -> Start | None:
        """The giver is gone: what is built is this process's to go on with."""
        was_built = self._stage is _Stage.BUILT
        self._stage = _Stage.DONE
        return Start() if was_built else None
