"""What became of connections while agents were upgraded or killed: the figures of `scripts/bench survive`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.report import Samples

COUNTERS = (
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
)


@dataclass(frozen=True, slots=True)
class HandOver:
    """Of all workers of a node, in one upgrade: `took_s` one after the other, until the last thing had moved.

    `values_bytes` of the state of all that went, `blobs_bytes` that were under way. `failures`: of single workers.
    """

    node: str
    tunnels: int
    took_s: float
    longest_pause_s: float
    values_bytes: int
    blobs_bytes: int
    failures: tuple[str, ...] = ()

    @property
    def bytes_each(self) -> float:
        return self.values_bytes / max(1, self.tunnels)


def hand_over_of(node: str, tunnels: int, rows: Sequence[Mapping[str, Any]]) -> HandOver:
    """`rows`: `hand_overs` of its status."""
    return HandOver(
        node,
        tunnels,
        sum(row["moved_s"] for row in rows),
        max((row["longest_pause_s"] for row in rows), default=0.0),
        sum(row["values_bytes"] for row in rows),
        sum(row["blobs_bytes"] for row in rows),
        tuple(row["failure"] for row in rows if row["failure"]),
    )


@dataclass(slots=True)
class Phase:
    """`living` as of Crowds, `fresh` as of Load, both by path; `went_back`: counters, in words."""

    name: str
    upgrades: dict[str, int] = field(default_factory=dict)
    living: dict[str, dict[str, Any]] = field(default_factory=dict)
    fresh: dict[str, dict[str, Any]] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)
    hand_overs: list[HandOver] = field(default_factory=list)

    @property
    def requests(self) -> int:
        words = sum(int(told["words"]) for told in self.living.values())
        return words + sum(int(told["visits"]) for told in self.fresh.values())

    @property
    def lost(self) -> int:
        return sum(int(told["lost"]) for told in self.living.values())

    @property
    def failed(self) -> int:
        return sum(sum(told["failed"].values()) for told in self.fresh.values())

    @property
    def longest_word_s(self) -> float:
        """From a word on a live connection to its answer."""
        return max((float(told["longest_s"]) for told in self.living.values()), default=0.0)

    @property
    def longest_visit_s(self) -> float:
        return max((float(told["longest_s"]) for told in self.fresh.values()), default=0.0)

    def add(self, told: Mapping[str, dict[str, Any]]) -> None:
        """`told` is what the crowds say of the next part of it."""
        for path, part in told.items():
            none = {"words": 0, "bulk_bytes": 0, "longest_s": 0.0, "p99_s": 0.0}
            whole = self.living.setdefault(path, {**part, **none})
            whole.update({key: part[key] for key in ("alive", "lost", "why", "p50_s")})
            whole["words"] += part["words"]
            whole["bulk_bytes"] += part["bulk_bytes"]
            whole["longest_s"] = max(whole["longest_s"], part["longest_s"])
            whole["p99_s"] = max(whole["p99_s"], part["p99_s"])


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the agent of a node and its workers hold."""

    memory_mb: float
    descriptors: int
    processes: int


@dataclass(slots=True)
class Run:
    """A whole run. `held`: by node, before the upgrades and after them. `told_s`: from the start after the kill until
    everything that was cut had been told so."""

    before: Phase
    upgraded: Phase
    killed: Phase
    told_s: float
    held: tuple[Mapping[str, Holdings], Mapping[str, Holdings]]

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.before, self.upgraded, self.killed

    def samples(self) -> Samples:
        """By the metrics of `report`."""
        before, upgraded, killed = self.phases
        slower_s = max(
            upgraded.longest_word_s - before.longest_word_s,
            upgraded.longest_visit_s - before.longest_visit_s,
            0.0,
        )
        then, now = self.held
        figures = {
            "survive_lost": upgraded.lost,
            "survive_failed": before.failed + upgraded.failed,
            "survive_slower": slower_s * 1e3,
            "survive_back": len(upgraded.went_back),
            "survive_hand_over": max((each.took_s for each in upgraded.hand_overs), default=0.0),
            "survive_state": max((each.bytes_each for each in upgraded.hand_overs), default=0.0) / 1e3,
            "survive_memory": max(now[node].memory_mb / then[node].memory_mb for node in then),
            "survive_descriptors": max(now[node].descriptors / then[node].descriptors for node in then),
            "survive_killed_failed": sum(
                many
                for told in killed.fresh.values()
                for what, many in told["failed"].items()
                if what.startswith("connect")
            ),
            "survive_killed_longest": killed.longest_visit_s,
            "survive_killed_told": self.told_s,
        }
        return {"ztun": {metric: [figure] for metric, figure in figures.items()}}


def table(phase: Phase) -> str:
    upgrades = ", ".join(f"{many} {change}" for change, many in phase.upgrades.items())
    lines = [
        f"{phase.name}: {upgrades or 'none'}; {phase.requests} requests, {phase.lost} connections lost, "
        f"{phase.failed} new ones failed"
    ]
    for path, told in phase.living.items():
        lines.append(
            f"  {path:28} {told['alive']:5} alive {told['lost']:5} lost  {told['words']:7} words  "
            f"p99 {told['p99_s'] * 1e3:6.1f} ms  longest {told['longest_s'] * 1e3:6.0f} ms  "
            f"{told['bulk_bytes'] / 1e6:6.0f} MB  {told['why'] or ''}"
        )
    for path, told in phase.fresh.items():
        lines.append(
            f"  {path:28} {told['visits']:5} new  p99 {told['p99_s'] * 1e3:6.1f} ms  "
            f"longest {told['longest_s'] * 1e3:6.0f} ms  {told['failed'] or ''}"
        )
    lines += [f"  a counter went back: {line}" for line in phase.went_back]
    lines += [
        f"  a hand-over of {each.node} fell short: {failure}"
        for each in phase.hand_overs
        for failure in each.failures
    ]
    if phase.hand_overs:
        worst = max(phase.hand_overs, key=lambda each: each.took_s)
        pause_s = max(each.longest_pause_s for each in phase.hand_overs)
        lines.append(
            f"  hand-over of a node: {worst.took_s:.2f} s at most ({worst.tunnels} tunnels, {worst.bytes_each:.0f}"
            f" bytes each beside {worst.blobs_bytes / 1e6:.1f} MB under way), none stood still for more than"
            f" {pause_s * 1e3:.0f} ms"
        )
    return "\n".join(lines)
