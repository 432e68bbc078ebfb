"""A worker's two hands: what it is told to give to its successor, and what it is told to take from one before it.

The rim of the package: data plane and figures on one side, the orders of the control process on the other.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence

from agent.channel import HandedOver, Message
from agent.handover import figures
from agent.handover.formats import FORMATS
from agent.handover.giving import Account, Giving
from agent.handover.messages import close_all
from agent.handover.taking import Taking
from agent.model.unit import Unit
from agent.net.loop import Timer
from agent.proxy import moving
from agent.proxy.dataplane import DataPlane

log = logging.getLogger(__name__)

NO_LINE = "the way to the other worker did not arrive: it may open no more files"
ORDER_S = 5.0
"""How long a worker whose hand-over failed goes on without being told what next."""
REPORT_S = 0.05
"""Figures are told so soon after something has moved: one end has let go of it, and the other counts it."""


class Hands:
    """Of one worker. `drain` begins the end of it, with so long for what stays.

    `report` tells figures; until somebody sets it nobody is there to hear them.
    """

    def __init__(
        self,
        plane: DataPlane,
        stop_accepting: Callable[[], object],
        drain: Callable[[float], object],
    ) -> None:
        self._plane = plane
        self._stop_accepting, self._drain = stop_accepting, drain
        self.report: Callable[[], object] = lambda: None
        self._metrics = plane.reporter.metrics
        figures.begin(self._metrics.figures)
        self._giving: Giving | None = None
        self._taking: list[Taking] = []
        self._report_due: Timer | None = None
        self._next_order: Timer | None = None
        self._stops = ""

    @property
    def are_busy(self) -> bool:
        """Something is on its way: this process may not end now."""
        return (self._giving is not None and self._giving.is_busy) or any(
            taking.is_busy for taking in self._taking
        )

    # -- orders

    @property
    def formats(self) -> Sequence[int]:
        return FORMATS

    def give(
        self, fds: Sequence[int], patience_s: float, drain_s: float, reply: Callable[[Message], None]
    ) -> None:
        """Give what is live to the worker at the other end of the one fd, and drain what stays.

        `reply` hears what became of it. Where that failed, another one may come to give to: the drain waits a moment.
        """
        before, self._giving = self._giving, None
        if before is not None:
            before.stop("another successor came")

        def over(account: Account) -> None:
            figures.count(self._metrics.figures, account)
            if giving is not None and self._giving is not giving:
                return  # nobody asks for it any more
            reply(told(account))
            if account.failure and not self._stops:
                self._next_order = self._plane.loop.later(ORDER_S, lambda: self._drain(drain_s))
            else:
                self._drain(drain_s)

        self._stop_accepting()
        if self._next_order is not None:
            self._next_order.cancel()
        giving = None
        if len(fds) != 1:
            close_all(fds)
            over(Account(failure=NO_LINE))
            return
        [fd] = fds
        giving = self._giving = Giving(self._plane.loop, fd, FORMATS, self, patience_s, self._moved, over)
        giving.start()

    def take(self, fds: Sequence[int]) -> str:
        """Take what the worker at the other end of the one fd gives. Why it does not, if so."""
        if len(fds) != 1:
            close_all(fds)
            return NO_LINE
        [fd] = fds
        taking = Taking(self._plane.loop, fd, FORMATS, self, self._moved, lambda: self._taking.remove(taking))
        self._taking.append(taking)
        if self._stops:
            taking.stop(self._stops)
        taking.start()
        return ""

    def stop(self, reason: str) -> None:
        """Neither give nor take any more: this worker ends with what it has."""
        self._stops = reason
        if self._next_order is not None:
            self._next_order.cancel()
        if self._giving is not None:
            self._giving.stop(reason)
        for taking in self._taking:
            taking.stop(reason)

    def end(self) -> None:
        """This process ends: whoever has its connections goes on with its counters."""
        if self._giving is not None:
            self._giving.end(json.dumps(self._metrics.snapshot()).encode())

    # -- what is here (Holds, Takes)

    def movables(self) -> Iterable[moving.Movable]:
        return moving.movables(self._plane)

    def immovable(self) -> Iterable[moving.Immovable]:
        return moving.immovable(self._plane)

    def thaw(self, unit: Unit, fds: Sequence[int]) -> moving.Thawed:
        return moving.thaw(self._plane, unit, fds)

    def inherit(self, final: bytes) -> None:
        try:
            self._metrics.inherit(json.loads(final))
        except ValueError as error:
            log.warning("the figures of the worker before cannot be gone on with: %s", error)
        self._moved()

    def _moved(self) -> None:
        if self._report_due is None:
            self._report_due = self._plane.loop.later(REPORT_S, self._tell)

    def _tell(self) -> None:
        self._report_due = None
        self.report()


def told(account: Account) -> HandedOver:
    return HandedOver(
        tuple(account.moved.items()),
        tuple((stays.text, stays.count) for stays in account.stays),
        account.took_s,
        max(account.pauses_s, default=0.0),
        account.failure,
        account.moved_s,
        account.values_bytes,
        account.blobs_bytes,
    )
