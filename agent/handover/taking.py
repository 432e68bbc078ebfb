"""Takes the live connections that another worker gives: builds each, starts it when it is given, inherits its figures.

What it is given it judges by its own state, as that is when it starts (`agent.proxy.movable`): a worker takes only what
it was told of, and by what it knows now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from agent.handover.formats import taken
from agent.handover.line import Gone, Line
from agent.handover.messages import Message, Offer, ProtocolError
from agent.handover.taker import Build, Forget, Inherit, Start, Taker
from agent.model.outcome import Refusal
from agent.model.unit import BadUnit, Unit
from agent.net.loop import Loop

log = logging.getLogger(__name__)


class Thawed(Protocol):
    """Built, and not started. One of the two is called, once."""

    def start(self) -> None: ...

    def drop(self) -> None: ...


class Takes(Protocol):
    """Who will have the connections."""

    def thaw(self, unit: Unit, fds: Sequence[int]) -> Thawed:
        """Build it. Raises BadUnit, Refusal, with the descriptors closed."""

    def inherit(self, final: bytes) -> None:
        """What the giver has counted in its life."""


class Taking:
    """Of one giver; `fd` leads to it, and is this object's now. `taken` hears of each unit, `over` of the end, once."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        formats: Sequence[int],
        takes: Takes,
        taken: Callable[[], object],
        over: Callable[[], object],
    ) -> None:
        self._takes = takes
        self._taken, self._over = taken, over
        self._formats = formats
        self._taker = Taker(formats)
        self._line = Line(loop, fd, self._heard, self._ended)
        self._thawed: Thawed | None = None
        self._stops = ""

    @property
    def is_busy(self) -> bool:
        """Something is built that may be this process's at any moment: it may not end now."""
        return self._thawed is not None

    def start(self) -> None:
        self._line.start()
        self._say(self._taker.hello())

    def stop(self, reason: str) -> None:
        """Refuse what is offered from now on."""
        self._stops = reason

    def _say(self, message: Message) -> None:
        # To one that is gone nothing can be said, and what it has said before its end may lie unread: a No, say.
        with suppress(Gone):
            self._line.send(message)

    def _heard(self, message: Message) -> None:
        order = self._taker.receive(message)
        match order:
            case Build():
                self._build(order.offer)
            case Start():
                self._begin()
            case Forget():
                self._forget()
            case Inherit():
                self._takes.inherit(order.final)

    def _ended(self, failure: BaseException) -> None:
        if isinstance(failure, Gone):
            # One that lives would have said No.
            if self._taker.ended() is not None:
                self._begin()
        else:
            log.error("taking connections over ended: %s", failure)
            if not isinstance(failure, ProtocolError):
                log.error("by a defect", exc_info=failure)
        self._forget()
        self._over()

    def _build(self, offer: Offer) -> None:
        try:
            self._thawed = self._thaw(offer)
        except (BadUnit, Refusal) as error:
            self._say(self._taker.refused(f"{error}"))
        except Exception as error:
            log.error("a connection could not be taken over", exc_info=error)
            self._say(self._taker.refused(f"a defect: {type(error).__name__}: {error}"))
        else:
            self._say(self._taker.ready())

    def _thaw(self, offer: Offer) -> Thawed:
        """Raises BadUnit, Refusal."""
        if not offer.is_whole:
            offer.close()
            raise BadUnit(
                f"{len(offer.fds)} of {offer.fd_count} descriptors arrived: it may open no more of them;"
                " raise the limit (RLIMIT_NOFILE, LimitNOFILE=)"
            )
        try:
            if self._stops:
                raise BadUnit(self._stops)
            if offer.format not in self._formats:
                raise BadUnit(f"a unit of format {offer.format}")
            unit = taken(offer.data, offer.format)
        except BadUnit:
            offer.close()
            raise
        return self._takes.thaw(unit, offer.fds)

    def _begin(self) -> None:
        thawed, self._thawed = self._thawed, None
        if thawed is not None:
            thawed.start()
            self._taken()

    def _forget(self) -> None:
        thawed, self._thawed = self._thawed, None
        if thawed is not None:
            thawed.drop()
