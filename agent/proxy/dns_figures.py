"""What is counted of the queries of pods, by ztunnel's names and labels."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from enum import Enum

from agent.model.workload import Workload
from agent.telemetry import families
from agent.telemetry.families import DNS_DURATION_BUCKETS_S, SUM, Family, bucket
from agent.telemetry.metrics import Sample

UNKNOWN = "unknown"
MOST_LABEL_SETS = 2000
Labels = tuple[str, str, str, str]


class Refused(Enum):
    """Why a query got no answer from whom it was meant for."""

    LOOP = "loop"
    """It was meant for the proxy itself, or for nobody's address."""
    UNKNOWN_POD = "unknown_pod"
    """The control plane does not list the pod that asks."""
    UNREADABLE = "unreadable"
    TOO_MANY = "too_many"
    """More are being forwarded than may be at once."""


def labels(kind: str, client: Workload | None, *, over_tcp: bool) -> Labels:
    protocol = "tcp" if over_tcp else "udp"
    if client is None:
        return kind, protocol, UNKNOWN, UNKNOWN
    return kind, protocol, client.canonical_name or UNKNOWN, client.canonical_revision or UNKNOWN


class DnsFigures:
    """One per worker."""

    def __init__(self) -> None:
        self.requests: Counter[Labels] = Counter()
        self.forwarded: Counter[Labels] = Counter()
        self.failed: Counter[Labels] = Counter()
        self.refused: Counter[Refused] = Counter(dict.fromkeys(Refused, 0))
        self.cached = 0
        """Answers of name servers that were given again."""
        self.lost = 0
        """Queries that had no room in the queue of the worker's socket."""
        self.unsent = 0
        """Answers that the kernel did not take."""
        self._took: dict[Labels, list[float]] = {}
        """How many took no longer than each of the buckets, and how long all together."""

    def known(self, asked: Labels) -> Labels:
        """These, or what stands for all beyond the limit."""
        if asked in self.requests or len(self.requests) < MOST_LABEL_SETS:
            return asked
        return asked[0], asked[1], "overflow", "overflow"

    def took(self, asked: Labels, time_s: float) -> None:
        """A name server has answered."""
        row = self._took.setdefault(asked, [0.0] * (len(DNS_DURATION_BUCKETS_S) + 2))
        row[bisect_left(DNS_DURATION_BUCKETS_S, time_s)] += 1
        row[-1] += time_s

    def samples(self) -> Iterable[Sample]:
        counted: tuple[tuple[Family, Counter[Labels]], ...] = (
            (families.DNS_REQUESTS, self.requests),
            (families.DNS_UPSTREAM_REQUESTS, self.forwarded),
            (families.DNS_UPSTREAM_FAILURES, self.failed),
        )
        for family, counter in counted:
            for asked, count in counter.items():
                yield family, asked, count
        for asked, row in self._took.items():
            total = 0.0
            for bound, within in zip((*DNS_DURATION_BUCKETS_S, float("inf")), row, strict=False):
                total += within
                yield families.DNS_DURATION, (*asked, bucket(bound)), total
            yield families.DNS_DURATION, (*asked, SUM), row[-1]
        for reason, count in self.refused.items():
            yield families.DNS_REFUSED, (reason.value,), count
        yield families.DNS_CACHED, (), self.cached
        yield families.DNS_LOST, (), self.lost
        yield families.DNS_UNSENT, (), self.unsent
