"""The counters of one process: connections by label set, and single figures by family.

`proxy` opens a handle per connection, adds bytes to it while they flow, and closes it with the outcome. A
worker sends `changes()` to the control process, where `totals` adds the workers up; nothing here knows of
other processes, of time or of the exposition. Label sets are never forgotten, because a counter must not go
backwards; past a limit, new ones share one overflow label set, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NotRequired, TypedDict

from agent.model.outcome import Outcome
from agent.telemetry import families
from agent.telemetry.families import BY_NAME, Family, Kind
from agent.telemetry.record import (
    FLAG_INDEX,
    LABEL_NAMES,
    LOCALITY_NAMES,
    NO_FLAG,
    LabelSet,
    Reporter,
    with_flag,
)

OVERFLOW = "overflow"
LABEL_SETS_LIMIT = 10_000
INCLUDES_LIMIT = 32
"""Of the processes before: who ended long since is in nobody's sums apart from that."""
TALLIES = 5


class Snapshot(TypedDict):
    """Absolute figures of one process; plain JSON values."""

    process: str
    """Who counted; another value means that counting began anew at zero."""
    tcp: list[tuple[list[str], list[int]]]
    """Label values, then (opened, closed, failed, received bytes, sent bytes)."""
    open: dict[str, int]
    figures: list[tuple[str, list[str], float]]
    includes: NotRequired[list[str]]
    """Other processes whose counters are in these: they have ended, and this one goes on from where they were."""
    is_partial: NotRequired[bool]
    """`tcp` has what changed since the snapshot before, and the rest of it is as it was said last."""


class Tally:
    """The five TCP counters of one label set."""

    __slots__ = ("closed", "failed", "is_due", "labels", "opened", "received_bytes", "sent_bytes")

    def __init__(self, label_set: LabelSet) -> None:
        self.labels = label_set
        self.is_due = False
        """It has changed since it was told."""
        self.opened = 0
        self.closed = 0
        self.failed = 0
        self.received_bytes = 0
        self.sent_bytes = 0

    def row(self) -> tuple[list[str], list[int]]:
        """As in Snapshot.tcp."""
        counts = [self.opened, self.closed, self.failed, self.received_bytes, self.sent_bytes]
        return list(self.labels), counts

    def add(self, counts: list[int]) -> None:
        opened, closed, failed, received, sent = counts
        self.opened += opened
        self.closed += closed
        self.failed += failed
        self.received_bytes += received
        self.sent_bytes += sent


class Handle:
    """One open connection. Bytes show in the metrics at once, not only when it ends."""

    __slots__ = ("_labels", "_metrics", "_tally", "is_closed", "to_client_bytes", "to_server_bytes")

    def __init__(self, metrics: Metrics, label_set: LabelSet, tally: Tally) -> None:
        self._metrics = metrics
        self._labels = label_set
        self._tally = tally
        self.is_closed = False
        self.to_server_bytes = 0
        self.to_client_bytes = 0

    def add_bytes(self, to_server: int = 0, to_client: int = 0) -> None:
        """`received` is what flows to the server, `sent` what flows to the client, for both reporters."""
        if not to_server and not to_client:
            return
        self.to_server_bytes += to_server
        self.to_client_bytes += to_client
        self._tally.received_bytes += to_server
        self._tally.sent_bytes += to_client
        self._metrics._changed(self._tally)

    def close(self, outcome: Outcome) -> None:
        """Counts the end under the outcome's flag. A second call counts nothing."""
        if not self.is_closed:
            self.is_closed = True
            self._metrics._ended(self._labels, outcome.flag)

    @property
    def labels(self) -> LabelSet:
        """What it is counted under."""
        return self._labels

    def leave(self) -> None:
        """Another process counts it from here on, its end too: it is open here no longer, and has not ended."""
        if not self.is_closed:
            self.is_closed = True
            self._metrics._left(self._labels)


Sample = tuple[Family, tuple[str, ...], float]
"""One figure: its family, its label values, its value."""


class Figures:
    """Counters and gauges that are not about one TCP connection, by family and label values."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[str, ...]], float] = {}
        self._sources: list[Callable[[], Iterable[Sample]]] = []
        self._inherited: dict[tuple[str, tuple[str, ...]], float] = {}
        """What processes before had counted of what is read, not added, here."""

    def inherit(self, figures: list[tuple[str, list[str], float]]) -> None:
        """Count on from these; gauges say how it is, and end with who had them. What is unknown is left out."""
        for name, labels, count in figures:
            family, key = BY_NAME.get(name), (name, tuple(labels))
            if (
                family is not None
                and family.kind is not Kind.GAUGE
                and len(labels) == len(family.sample_labels)
            ):
                self._inherited[key] = self._inherited.get(key, 0) + count

    def add(self, family: Family, *values: str, count: float = 1) -> None:
        key = self._key(family, values)
        self._values[key] = self._values.get(key, 0) + count

    def put(self, family: Family, *values: str, count: float) -> None:
        """Sets a gauge, or a counter somebody else keeps (the kernel)."""
        self._values[self._key(family, values)] = count

    def ask(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Have figures that somebody else keeps read whenever these are."""
        self._sources.append(source)

    def items(self) -> list[tuple[str, list[str], float]]:
        values = self._values.copy()
        for source in self._sources:
            values.update((self._key(family, labels), count) for family, labels, count in source())
        for key, count in self._inherited.items():
            values[key] = values.get(key, 0) + count
        return [(name, list(labels), count) for (name, labels), count in values.items()]

    def _key(self, family: Family, values: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        if len(values) != len(family.sample_labels):
            raise ValueError(f"{family.name} has labels {family.sample_labels}, got {values}")
        return family.name, values


class Metrics:
    """What one worker counts. Not thread-safe: one loop owns it."""

    def __init__(self, process: str, limit: int = LABEL_SETS_LIMIT) -> None:
        self.figures = Figures()
        self._process = process
        self._limit = limit
        self._tallies: dict[LabelSet, Tally] = {}
        self._open = {reporter.value: 0 for reporter in Reporter}
        self._includes: list[str] = []
        self._due: list[Tally] | None = None
        """Those that have changed since they were told; None: all of them are to be told."""
        self.figures.add(families.LABEL_SETS_FOLDED, count=0)

    def open(self, label_set: LabelSet) -> Handle:
        """Counts a connection as opened. `label_set` is that of `record.labels(opened)`."""
        tally = self._tally(label_set)
        tally.opened += 1
        self._changed(tally)
        self._open[label_set[0]] += 1
        return Handle(self, label_set, tally)

    def resume(self, label_set: LabelSet, to_server: int, to_client: int) -> Handle:
        """A connection that another process has counted as opened, with these bytes so far; only what comes counts."""
        self._open[label_set[0]] += 1
        handle = Handle(self, label_set, self._tally(label_set))
        handle.to_server_bytes, handle.to_client_bytes = to_server, to_client
        return handle

    def inherit(self, last: Any) -> None:
        """Go on from the last counters of another process, which has ended. Raises ValueError: it is no Snapshot.

        As JSON has it, with lists in place of tuples.
        """
        try:
            process, before = last["process"], last.get("includes", [])
            rows = [(tuple(map(str, values)), list(map(int, counts))) for values, counts in last["tcp"]]
            figures = [(str(name), [*map(str, labels)], float(n)) for name, labels, n in last["figures"]]
            if not all(is_tally(values, counts) for values, counts in rows):
                raise ValueError("counters of another shape")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no counters: {error!r}") from error
        if process in self._includes:
            return
        self._includes = [*self._includes, *before, process][-INCLUDES_LIMIT:]
        for label_set, counts in rows:
            tally = self._tally(label_set)
            tally.add(counts)
            self._changed(tally)
        self.figures.inherit(figures)

    def snapshot(self) -> Snapshot:
        """All of it."""
        return {
            "process": self._process,
            "tcp": [tally.row() for tally in self._tallies.values()],
            "open": dict(self._open),
            "figures": self.figures.items(),
            "includes": self._includes,
        }

    def tell_anew(self) -> None:
        """Somebody hears of it who has heard nothing: the next `changes` are all of it."""
        self._due = None

    def changes(self) -> Snapshot:
        """What changed since this was asked last: of thousands of label sets, few have traffic in the same second."""
        due, self._due = self._due, []
        for tally in self._tallies.values() if due is None else due:
            tally.is_due = False
        if due is None:
            return self.snapshot()
        return {
            "process": self._process,
            "tcp": [tally.row() for tally in due],
            "open": dict(self._open),
            "figures": self.figures.items(),
            "includes": self._includes,
            "is_partial": True,
        }

    def _changed(self, tally: Tally) -> None:
        if self._due is not None and not tally.is_due:
            tally.is_due = True
            self._due.append(tally)

    def _left(self, label_set: LabelSet) -> None:
        self._open[label_set[0]] -= 1

    def _ended(self, label_set: LabelSet, flag: str) -> None:
        self._open[label_set[0]] -= 1
        tally = self._tally(with_flag(label_set, flag))
        tally.closed += 1
        tally.failed += flag != NO_FLAG
        self._changed(tally)

    def _tally(self, label_set: LabelSet) -> Tally:
        tally = self._tallies.get(label_set)
        if tally is not None:
            return tally
        if len(self._tallies) >= self._limit:
            self.figures.add(families.LABEL_SETS_FOLDED)
            label_set = overflow(label_set)
        return self._tallies.setdefault(label_set, Tally(label_set))


def is_tally(values: Sequence[str], counts: Sequence[int]) -> bool:
    """Whether a row of TCP counters, label values and counts, has the shape that this build gives them."""
    has_labels = len(values) in (len(LABEL_NAMES), len(LABEL_NAMES) + len(LOCALITY_NAMES))
    return len(counts) == TALLIES and has_labels and values[0] in {each.value for each in Reporter}


def overflow(label_set: LabelSet) -> LabelSet:
    """The label set that stands for all beyond the limit; reporter and flag stay true."""
    values = [OVERFLOW] * len(LABEL_NAMES)
    values[0], values[FLAG_INDEX] = label_set[0], label_set[FLAG_INDEX]
    return tuple(values)
