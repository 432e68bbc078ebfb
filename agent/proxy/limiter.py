"""Limits of pods: whether one more connection of a client is let in, and how much all of them may carry.

Asked by `delivery` last, of what policy has allowed: nobody uses up a limit who would be refused anyway. A connection
that is let in has a seat, which its registry entry holds until it is over; what is known of it follows from that
entry, so that a connection which moves to another worker brings nothing of it along. What a limit says at the moment
holds for connections that are open already too, but for their number: none is ended for a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from agent.fd_limit import with_reserve
from agent.model.connection import Connection
from agent.model.counted import counted
from agent.model.limits import BYTES, CONNECTIONS, NEW
from agent.model.outcome import Outcome, Refusal
from agent.model.steps import Steps, each
from agent.model.workload import Workload
from agent.net.limit_table import NO_ROOM, STUCK, TOO_FAST, TOO_MANY, LimitTable
from agent.net.loop import Loop, Timer
from agent.policy.limits import UNBOUND, Bounds, bounds_of
from agent.policy.match import subject_of
from agent.proxy.meter import Meter
from agent.proxy.registry import Live, Registry
from agent.proxy.seat import Seat
from agent.state.apply import Changes
from agent.state.store import Store
from agent.telemetry import families
from agent.telemetry.metrics import Figures

log = logging.getLogger(__name__)

NOBODY = "clients without an identity"
LOOK_S = 1.0
"""How often who has seats looks whether others still find its table."""


class Limiter:
    """One per worker. `path` is that of the table that it shares with the others; None: it is alone."""

    def __init__(
        self, loop: Loop, store: Store, registry: Registry, figures: Figures, path: Path | None
    ) -> None:
        self._loop = loop
        self._store = store
        self._registry = registry
        self._figures = figures
        self.path = path
        self._table: LimitTable | None = None
        """Made for the first connection that is limited: most nodes have none."""
        self._seats: set[Seat] = set()
        self._meters: dict[bytes, Meter] = {}
        self._looks: Timer | None = None
        """While there are seats."""
        self._is_lost = False
        """Whether the last look found nowhere to count; said once."""
        self._are_uncounted = False
        """Whether a seat has no row because another worker stood still."""

    # -- connections come

    def admit(self, live: Live, workload: Workload) -> None:
        """Let one in that policy allows, to a pod with limits. Raises Refusal."""
        connection = live.connection
        assert connection is not None, "it was judged"
        bounds = bounds_of(workload.limits, subject_of(connection))
        if bounds == UNBOUND:
            return
        key = client_key(workload, connection)
        many, fast = bounds.connections, bounds.new_per_second
        row = self._current().enter(
            key, None if many is None else many.most, None if fast is None else fast.most, self._loop.now()
        )
        if row < 0:
            raise self._refusal(row, workload, connection, bounds)
        self._seat(live, workload, key, row, bounds)

    def resume(self, live: Live, *, is_parked: bool = False) -> bool:
        """Count one that is open already: let in by this process when there was no limit, or by another (`is_parked`).

        Whether a limit is about it.
        """
        workload, connection = self._store.current.workloads.get(live.destination_uid), live.connection
        if connection is None or workload is None or not workload.limits or live.seat is not None:
            return False
        bounds = bounds_of(workload.limits, subject_of(connection))
        if bounds == UNBOUND:
            return False
        key = client_key(workload, connection)
        try:
            row = self._current().resume(key, self._loop.now(), is_parked=is_parked)
        except Refusal as refusal:
            log.warning("%s", refusal)
            row = NO_ROOM
        if row < 0:
            self._are_uncounted |= row == STUCK
            why = "another worker stands still" if row == STUCK else "no room"
            log.warning("a connection of %s to %s is not counted: %s", named(connection), live.actual, why)
        self._seat(live, workload, key, row, bounds)
        return True

    def _seat(self, live: Live, workload: Workload, key: bytes, row: int, bounds: Bounds) -> None:
        seat = Seat(self, key, row)
        seat.meter = self._meter(seat, workload, bounds)
        if seat.meter is not None:
            seat.meter.users += 1
        self._seats.add(seat)
        live.seat = seat
        if self._looks is None:
            self._looks = self._loop.later(LOOK_S, self._look)

    def _meter(self, seat: Seat, workload: Workload, bounds: Bounds) -> Meter | None:
        if seat.row < 0:
            return None
        meter, bytes_bound = self._meters.get(seat.key), bounds.bytes_per_second
        rate = 0 if bytes_bound is None else bytes_bound.most
        if meter is not None:
            meter.be(self.table(), seat.row, rate)
        elif rate:
            labels = labels_of(workload)
            meter = self._meters[seat.key] = Meter(
                self._loop,
                self.table(),
                seat.row,
                rate,
                lambda: self._figures.add(families.LIMITED, BYTES, *labels),
            )
        return meter

    def _refusal(self, why: int, workload: Workload, connection: Connection, bounds: Bounds) -> Refusal:
        who = f"{named(connection)} to {workload.namespace}/{workload.name}"
        reason = "too many others have limits" if why == NO_ROOM else "another worker stands still"
        kind, detail = "uncounted", f"{who}: what it has cannot be counted, as {reason}"
        if why == TOO_MANY and bounds.connections is not None:
            most, name = bounds.connections
            open_now = counted(most, "connection is", "connections are")
            detail = f"{open_now} open, as many as {name} lets in" if most else f"{name} lets nobody in"
            kind, detail = CONNECTIONS, f"{who}: {detail}"
        elif why == TOO_FAST and bounds.new_per_second is not None:
            most, name = bounds.new_per_second
            came = counted(most, "connection")
            kind, detail = NEW, f"{who}: {came} came in the last second, as many as {name} lets in"
        self._figures.add(families.LIMITED, kind, *labels_of(workload))
        return Refusal(Outcome.LIMITED, detail)

    # -- and go

    def left(self, seat: Seat) -> None:
        self._seats.discard(seat)
        meter = seat.meter
        if meter is not None:
            meter.users -= 1
            if not meter.users:
                self._meters.pop(seat.key, None)

    # -- limits change

    def reevaluate(self, changes: Changes, pace: Callable[[Live], None]) -> Steps[None]:
        """Go by what pods say now, also for connections that are open; `pace` tells a new seat of its relay."""

        def follow(live: Live) -> None:
            if live.connection is None or live.destination_uid not in changes.workloads:
                return
            if live.seat is not None:
                self._follow(live.seat, live)
            elif self.resume(live):
                pace(live)

        if changes.workloads:
            yield from each(self._registry, follow)

    def _follow(self, seat: Seat, live: Live) -> None:
        workload, connection = self._store.current.workloads.get(live.destination_uid), live.connection
        if workload is None or connection is None or seat.row < 0:
            return
        bounds = bounds_of(workload.limits, subject_of(connection))
        had, seat.meter = seat.meter, self._meter(seat, workload, bounds)
        if had is None and seat.meter is not None:
            seat.meter.users += 1
            seat.follow()

    # -- the table

    def _current(self) -> LimitTable:
        """The one that all workers find. Raises Refusal: without one nothing can be counted."""
        try:
            table = self.table()
            return table if table.is_current else self._renewed(table)
        except OSError as error:
            raise Refusal(
                Outcome.LIMITED, f"its pod has limits, and nobody can count: {self.path}: {error.strerror}"
            ) from error

    def table(self) -> LimitTable:
        if self._table is None:
            # A worker that has no descriptor left has connections to count all the same.
            with with_reserve():
                self._table = LimitTable.opened(self.path)
        return self._table

    def _renewed(self, old: LimitTable) -> LimitTable:
        """The run directory was removed: everything that is open here is counted in the new one."""
        self._table = None
        try:
            table = self.table()
        except OSError:
            self._table = old
            raise
        rows: dict[bytes, int] = {}
        for seat in self._seats:
            seat.row = table.resume(seat.key, self._loop.now())
            if seat.row >= 0:
                rows[seat.key] = seat.row
            self._are_uncounted |= seat.row == STUCK
        for key, meter in self._meters.items():
            row = rows.get(key, NO_ROOM)
            meter.be(table, row, meter.rate if row >= 0 else 0)
        old.close()
        return table

    def _look(self) -> None:
        """Who admits nobody has to notice as well, or what it has counts for no other worker."""
        self._looks = None
        if self._table is not None:
            try:
                self._current().settle()
            except Refusal as refusal:
                if not self._is_lost:
                    log.warning("%s", refusal)
                self._is_lost = True
            else:
                self._is_lost = False
                self._count_again()
        if self._seats:
            self._looks = self._loop.later(LOOK_S, self._look)

    def _count_again(self) -> None:
        """Those that another worker, which stood still, has kept from being counted."""
        if not self._are_uncounted:
            return
        self._are_uncounted = False
        for live in self._registry:
            seat = live.seat
            if seat is not None and seat.row == STUCK and seat in self._seats:  # not one that moves
                seat.row = self.table().resume(seat.key, self._loop.now())
                self._are_uncounted |= seat.row == STUCK
                self._follow(seat, live)

    def close(self) -> None:
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None
        if self._table is not None:
            self._table.close()
            self._table = None


def client_key(workload: Workload, connection: Connection) -> bytes:
    """By which the table knows a client at a pod: the same in all workers."""
    return blake2b(f"{workload.uid}\0{connection.identity or ''}".encode(), digest_size=16).digest()


def named(connection: Connection) -> str:
    return str(connection.identity) if connection.identity is not None else NOBODY


def labels_of(workload: Workload) -> tuple[str, str]:
    return workload.namespace, workload.workload_name or workload.name
