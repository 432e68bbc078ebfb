"""Metrics as text, in the format a client asks for: OpenMetrics 1.0, or the Prometheus text format 0.0.4.

Families without a sample are left out, counters carry `_total` (docs/WIRE.md#metrics). Reads a snapshot of `totals`;
the HTTP around it is `admin`'s. Written here because prometheus_client takes 3.3 MB for it; that library's parsers
read it in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.telemetry import families
from agent.telemetry.families import BUCKET, BY_NAME, SUM, Family, Kind
from agent.telemetry.metrics import Snapshot
from agent.telemetry.record import label_names

OPENMETRICS = "application/openmetrics-text;charset=utf-8;version=1.0.0"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
# In the order of metrics.Tally.values().
TCP_COUNTERS = (
    families.TCP_OPENED,
    families.TCP_CLOSED,
    families.TCP_FAILED,
    families.TCP_RECEIVED,
    families.TCP_SENT,
)


def content_type(accept: Iterable[str]) -> str:
    """The Content-Type for the values of a request's Accept headers."""
    for header in accept:
        for entry in header.split(","):
            if entry.partition(";")[0].strip().lower() == "application/openmetrics-text":
                return OPENMETRICS
    return PLAIN


def expose(snapshot: Snapshot, content_type: str = OPENMETRICS) -> bytes:
    """The text of a snapshot in the format of that content type; OpenMetrics ends with `# EOF`."""
    is_plain = content_type == PLAIN
    lines = [line for each in _every(snapshot) if each.samples for line in each.lines(is_plain=is_plain)]
    if not is_plain:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass(slots=True)
class _Exposed:
    """A family with its samples, each by its labels."""

    family: Family
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def lines(self, *, is_plain: bool) -> Iterator[str]:
        """Labels are sorted by name. The plain format has the suffix of counters in the name of the family too."""
        name = self.family.name
        sampled = name + "_total" if self.family.kind is Kind.COUNTER else name
        named = sampled if is_plain else name
        text = self.family.help.replace("\\", r"\\").replace("\n", r"\n")
        yield f"# HELP {named} {text if is_plain else _quoted(self.family.help)}"
        yield f"# TYPE {named} {self._type(is_plain=is_plain)}"
        if self.family.kind is Kind.HISTOGRAM:
            yield from self._histogram()
            return
        for labels, value in self.samples:
            shown = ",".join(f'{label}="{_quoted(labels[label])}"' for label in sorted(labels))
            yield f"{sampled}{{{shown}}} {float(value)!r}" if shown else f"{sampled} {float(value)!r}"

    def _histogram(self) -> Iterator[str]:
        """Each label set's buckets come one behind the other, and its sum last."""
        name = self.family.name
        for labels, value in self.samples:
            bound = labels[BUCKET]
            others = [f'{label}="{_quoted(labels[label])}"' for label in sorted(labels) if label != BUCKET]
            every = f"{{{','.join(others)}}}"
            if bound == SUM:
                yield f"{name}_sum{every} {float(value)!r}"
                continue
            within = ",".join((f'{BUCKET}="{bound}"', *others))
            yield f"{name}_bucket{{{within}}} {float(value)!r}"
            if bound == "+Inf":
                yield f"{name}_count{every} {float(value)!r}"

    def _type(self, *, is_plain: bool) -> str:
        if self.family.kind is Kind.COUNTER:
            return "counter"
        if self.family.kind is Kind.HISTOGRAM:
            return "histogram"
        if self.family.name.endswith("_count"):
            # ztunnel's name, and one that is kept for histograms and summaries: a linter takes it from nothing that
            # has another type, and says nothing to one without.
            return "untyped" if is_plain else "unknown"
        return "gauge"


def _every(snapshot: Snapshot) -> Iterator[_Exposed]:
    yield from _tcp(snapshot)
    open_now = _Exposed(families.TCP_OPEN)
    open_now.samples += (({"reporter": reporter}, count) for reporter, count in snapshot["open"].items())
    yield open_now
    yield from _figures(snapshot)


def _tcp(snapshot: Snapshot) -> Iterable[_Exposed]:
    exposed = [_Exposed(family) for family in TCP_COUNTERS]
    opened, received, sent = exposed[0], exposed[3], exposed[4]
    for values, counts in snapshot["tcp"]:
        labels = dict(zip(label_names(tuple(values)), values, strict=True))
        for each, count in zip(exposed, counts, strict=True):
            # A pair that was opened shows its bytes from zero on, so that rates see the first ones.
            if count or (counts[0] and (each is opened or each is received or each is sent)):
                each.samples.append((labels, count))
    return exposed


def _figures(snapshot: Snapshot) -> Iterable[_Exposed]:
    exposed: dict[str, _Exposed] = {}
    for name, values, count in snapshot["figures"]:
        family = BY_NAME[name]
        each = exposed.setdefault(name, _Exposed(family))
        each.samples.append((dict(zip(family.sample_labels, values, strict=True)), count))
    return exposed.values()


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
