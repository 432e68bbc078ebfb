"""What the connections of this worker leave behind: metrics while they live, one log line when they end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome
from agent.model.workload import Workload
from agent.telemetry import access_log, families
from agent.telemetry.metrics import Handle, Metrics, Sample
from agent.telemetry.past import Past
from agent.telemetry.record import NO_FLAG, Attributes, Labelled, LabelMemo, Opened, Record, source_labels
from agent.wire.baggage import KEYS_OF_WORKLOAD_NAME


class CountsBytes(Protocol):
    """A relay: bytes so far, client to server and back."""

    @property
    def sent_bytes(self) -> int: ...

    @property
    def received_bytes(self) -> int: ...


FAILURES = tuple(outcome for outcome in Outcome if outcome.flag != NO_FLAG)

LINES_PER_S, LINES_AT_ONCE = 20.0, 200.0
"""How many lines refused connections may write: anybody can have one refused."""


class Tracked:
    """One counted connection. `finish` counts its end and writes its line, once."""

    __slots__ = ("_handle", "_reporter", "_started_s", "labelled", "opened", "relay")

    def __init__(
        self,
        reporter: Reporter,
        opened: Opened,
        handle: Handle,
        started_s: float,
        labelled: Labelled | None = None,
    ) -> None:
        self._reporter = reporter
        self.labelled = labelled
        """By which its labels are known; None: another process has told them."""
        self._handle = handle
        self._started_s = started_s
        self.opened = opened
        self.relay: CountsBytes | None = None

    def count_bytes(self) -> None:
        """Bring the byte counters up to what the relay has carried by now."""
        if self.relay is not None:
            self._handle.add_bytes(
                self.relay.sent_bytes - self._handle.to_server_bytes,
                self.relay.received_bytes - self._handle.to_client_bytes,
            )

    def finish(self, outcome: Outcome, detail: str = "") -> None:
        if self._handle.is_closed:
            return
        self.count_bytes()
        self._handle.close(outcome)
        self._reporter.ended(self, outcome, detail, self._handle, self._started_s)

    def leave(self) -> Past:
        """Another process goes on with it: nothing is said of its end here. What was carried so far is counted."""
        self.count_bytes()
        self.relay = None
        self._handle.leave()
        return self._reporter.left(self, self._handle, self._started_s)


class Reporter:
    """One per worker. `write_line` takes finished lines; `wall` is Unix seconds, `clock` monotonic."""

    def __init__(
        self,
        metrics: Metrics,
        write_line: Callable[[str], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        as_json: bool = False,
    ) -> None:
        self.metrics = metrics
        self.write_line = write_line
        self.clock = clock
        self.wall = wall
        self.as_json = as_json
        self.least_level = logging.INFO
        """Of the lines of the access log that are written."""
        self._open: set[Tracked] = set()
        self._failed: Counter[tuple[Direction, Outcome]] = Counter()
        self._memo = LabelMemo()
        self.spared = 0
        """Refused connections without a line of their own."""
        self._spared_said = 0
        self._lines_left = LINES_AT_ONCE
        self._counted_at_s = clock()

    def opened(self, opened: Opened) -> Tracked:
        """Count a connection whose request is fully built."""
        labelled = self._memo.open(opened)
        tracked = Tracked(self, opened, self.metrics.open(labelled.label_set), self.clock(), labelled)
        self._open.add(tracked)
        if self.least_level <= logging.DEBUG:
            self.write_line(access_log.opened_line(opened, self.wall(), self.as_json))
        return tracked

    def resumed(self, past: Past) -> Tracked:
        """Go on with what another process had opened and counted."""
        handle = self.metrics.resume(past.labels, past.to_server_bytes, past.to_client_bytes)
        tracked = Tracked(self, past.opened, handle, self.clock() - past.age_s)
        self._open.add(tracked)
        return tracked

    def _close(self, tracked: Tracked) -> None:
        self._open.discard(tracked)
        if tracked.labelled is not None:
            self._memo.close(tracked.labelled)

    def left(self, tracked: Tracked, handle: Handle, started_s: float) -> Past:
        self._close(tracked)
        return Past(
            tracked.opened,
            handle.labels,
            handle.to_server_bytes,
            handle.to_client_bytes,
            self.clock() - started_s,
        )

    def named(self, source: Workload, hostname: str) -> None:
        """A pod dials a workload that is known by its host name alone."""
        self.metrics.figures.add(families.ON_DEMAND_DNS, *source_labels(source), hostname)

    def refused(
        self,
        direction: Direction,
        source: SocketAddress,
        destination: SocketAddress,
        outcome: Outcome,
        error: str,
    ) -> None:
        """Count and log a connection that ended before its request was built: ztunnel's metrics know nothing of it.

        Where they are too many, they get one line together, about once a second.
        """
        if outcome.flag != NO_FLAG:
            self._failed[direction, outcome] += 1
        if self.least_level > logging.WARNING:
            return
        now_s = self.clock()
        earned = (now_s - self._counted_at_s) * LINES_PER_S
        self._counted_at_s = now_s
        self._lines_left = min(LINES_AT_ONCE, self._lines_left + earned)
        if self._lines_left < 1.0:
            self.spared += 1
            return
        self._lines_left -= 1.0
        self.write_line(
            access_log.refused_line(direction, source, destination, error, self.wall(), self.as_json)
        )

    def samples(self) -> Iterable[Sample]:
        """What cannot be told from ztunnel's metrics: how many have failed, by each reason."""
        yield families.LINES_SPARED, (), self.spared
        for direction in Direction:
            for outcome in FAILURES:
                labels = direction.value, outcome.name.lower()
                yield families.CONNECTIONS_FAILED, labels, self._failed[direction, outcome]

    def count_bytes(self) -> None:
        """Bring all byte counters up to date: before a snapshot of the metrics, once a second."""
        if self.spared > self._spared_said:
            count = self.spared - self._spared_said
            self._spared_said = self.spared
            self.write_line(access_log.spared_line(count, self.wall(), self.as_json))
        for tracked in self._open:
            tracked.count_bytes()

    def ended(
        self, tracked: Tracked, outcome: Outcome, detail: str, handle: Handle, started_s: float
    ) -> None:
        self._close(tracked)
        record = Record(
            opened=tracked.opened,
            outcome=outcome,
            detail=detail,
            to_server_bytes=handle.to_server_bytes,
            to_client_bytes=handle.to_client_bytes,
            duration_s=self.clock() - started_s,
        )
        if record.is_failed:
            self._failed[tracked.opened.direction, outcome] += 1
        if self.least_level <= (logging.ERROR if record.is_failed else logging.INFO):
            self.write_line(access_log.line(record, self.wall(), self.as_json))


def claims(baggage: dict[str, str]) -> Attributes | None:
    """What a peer says of itself, for telemetry where the mesh knows nothing (docs/WIRE.md#inbound)."""
    if not baggage:
        return None
    name = next((baggage[key] for key in KEYS_OF_WORKLOAD_NAME if key in baggage), "")
    return Attributes(
        workload=name,
        app=name,
        canonical_service=baggage.get("service.name", ""),
        canonical_revision=baggage.get("service.version", ""),
        version=baggage.get("service.version", ""),
        namespace=baggage.get("k8s.namespace.name", ""),
        cluster=baggage.get("k8s.cluster.name", ""),
        region=baggage.get("cloud.region", ""),
        zone=baggage.get("cloud.availability_zone", ""),
    )
