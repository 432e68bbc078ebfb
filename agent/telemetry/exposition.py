"""Metrics as text, in the format a client asks for: OpenMetrics 1.0, or the Prometheus text format 0.0.4.

Families without a sample are left out, counters carry `_total` (docs/WIRE.md#metrics). Reads a snapshot of `totals`;
the HTTP around it is `admin`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric, UnknownMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics

from agent.telemetry import families
from agent.telemetry.families import BY_NAME, Family, Kind
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
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    if content_type == PLAIN:
        return generate_latest(registry)
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


class _Collector:
    """prometheus_client's custom collector over a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from self._tcp()
        open_now = _metric(families.TCP_OPEN)
        for reporter, count in self._snapshot["open"].items():
            open_now.add_sample(families.TCP_OPEN.name, {"reporter": reporter}, count)
        if open_now.samples:
            yield open_now
        yield from self._figures()

    def _tcp(self) -> Iterator[Metric]:
        metrics = [_metric(family) for family in TCP_COUNTERS]
        closed, failed = metrics[1], metrics[2]
        for values, counts in self._snapshot["tcp"]:
            labels = dict(zip(label_names(tuple(values)), values, strict=True))
            for metric, count in zip(metrics, counts, strict=True):
                # A pair that was opened shows its bytes from zero on, so that rates see the first ones.
                if count or (counts[0] and metric is not closed and metric is not failed):
                    metric.add_sample(metric.name + "_total", labels, count)
        return (metric for metric in metrics if metric.samples)

    def _figures(self) -> Iterator[Metric]:
        metrics: dict[str, Metric] = {}
        for name, values, count in self._snapshot["figures"]:
            family = BY_NAME[name]
            metric = metrics.setdefault(name, _metric(family))
            suffix = "_total" if family.kind is Kind.COUNTER else ""
            metric.add_sample(name + suffix, dict(zip(family.labels, values, strict=True)), count)
        return iter(metrics.values())


def _metric(family: Family) -> Metric:
    if family.kind is Kind.COUNTER:
        return CounterMetricFamily(family.name, family.help, labels=())
    if family.name.endswith("_count"):
        # ztunnel's name, and one that is kept for histograms and summaries: a linter takes it from nothing that has
        # another type, and says nothing to one without.
        return UnknownMetricFamily(family.name, family.help, labels=())
    return GaugeMetricFamily(family.name, family.help, labels=())
