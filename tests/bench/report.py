"""What the bench says: medians, ratios, the table, the JSON, and whether the targets are met. Pure.

A metric is known by the key under which `rounds` collects it. A ratio is the median of the ratios of single
rounds: both systems of a pair ran within seconds, so that what drifts from round to round cancels out.
"""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TARGETS = Path(__file__).parents[2] / "scripts" / "targets.toml"
SYSTEMS = {"ztun": "ztun", "honest": "honest", "before": "before", "envoy": "Envoy", "direct": "direct"}
"""Systems a run may have, in the order of the columns, with their titles."""
ITSELF = "itself"
PEERS = ("envoy", "before", "honest", ITSELF)
"""What a target may compare with: systems, or ztun itself, for metrics that are ratios already."""
Samples = Mapping[str, Mapping[str, Sequence[float]]]
"""system -> metric -> one value per round."""


@dataclass(frozen=True, slots=True)
class Metric:
    key: str
    label: str
    unit: str
    digits: int


METRICS: tuple[Metric, ...] = (
    Metric("upload_1", "upload, 1 stream", "GB/s", 2),
    Metric("download_1", "download, 1 stream", "GB/s", 2),
    Metric("upload_8", "upload, 8 streams", "GB/s", 2),
    Metric("download_8", "download, 8 streams", "GB/s", 2),
    Metric("exchange_1", "requests, 1 connection", "1/s", 0),
    Metric("p50_1", "  round trip p50", "us", 0),
    Metric("p99_1", "  round trip p99", "us", 0),
    Metric("exchange_64", "requests, 64 connections", "1/s", 0),
    Metric("p50_64", "  round trip p50", "us", 0),
    Metric("p99_64", "  round trip p99", "us", 0),
    Metric("p50_half", "  p50 at half of Envoy's rate", "us", 0),
    Metric("p99_half", "  p99 at half of Envoy's rate", "us", 0),
    Metric("connect", "new connections", "1/s", 0),
    Metric("stalled_12", "p99 beside 12 stalled / quiet", "", 2),
    Metric("stalled_40", "p99 beside 40 stalled / quiet", "", 2),
    Metric("stalled_200", "p99 beside 200 stalled / quiet", "", 2),
    Metric("beside_bulk", "p99 of 100 beside a bulk download / quiet", "", 2),
    Metric("many_open", "making of the last of 10,000 / of the first", "", 2),
    Metric("busiest_2", "share of the busier of 2 workers, 8 streams", "", 2),
    Metric("busiest_4", "share of the busiest of 4 workers, 8 streams", "", 2),
    Metric("p50_refused", "closed port, until known, p50", "us", 0),
    Metric("p99_refused", "closed port, until known, p99", "us", 0),
    Metric("cpu_upload_1", "CPU per GB, upload, 1 stream", "s", 2),
    Metric("cpu_download_1", "CPU per GB, download, 1 stream", "s", 2),
    Metric("cpu_upload_8", "CPU per GB, upload, 8 streams", "s", 2),
    Metric("cpu_download_8", "CPU per GB, download, 8 streams", "s", 2),
    Metric("cpu_exchange_64", "CPU per request, 64 connections", "us", 1),
    Metric("cpu_connect", "CPU per new connection", "us", 0),
    Metric("cpu_handshake", "CPU per handshake, server only", "us", 0),
    Metric("memory_idle", "memory per idle connection", "kB", 1),
    Metric("memory_unread", "memory per connection not read", "kB", 0),
    Metric("memory_rest", "memory at rest", "MB", 0),
    Metric("memory_control", "  of it control processes", "MB", 0),
    Metric("strangers_half", "p99 of new ones, half-open crowd / quiet", "", 2),
    Metric("strangers_garbage", "p99 of new ones, garbage crowd / quiet", "", 2),
    Metric("strangers_begun", "p99 of new ones, half a hello / quiet", "", 2),
    Metric("strangers_nobody", "p99 of new ones, same crowd at nobody / quiet", "", 2),
    Metric("strangers_live_half", "p99 of open ones, half-open crowd / quiet", "", 2),
    Metric("strangers_live_garbage", "p99 of open ones, garbage crowd / quiet", "", 2),
    Metric("strangers_live_begun", "p99 of open ones, half a hello / quiet", "", 2),
    Metric("strangers_live_nobody", "p99 of open ones, same crowd at nobody / quiet", "", 2),
    Metric("strangers_members_half", "p99 of handshakes, half-open crowd / quiet", "", 2),
    Metric("strangers_members_garbage", "p99 of handshakes, garbage crowd / quiet", "", 2),
    Metric("strangers_members_begun", "p99 of handshakes, half a hello / quiet", "", 2),
    Metric("strangers_members_nobody", "p99 of handshakes, same crowd at nobody / quiet", "", 2),
    Metric("cpu_strangers_half", "CPU per stranger, half-open", "us", 0),
    Metric("cpu_strangers_garbage", "CPU per stranger, garbage", "us", 0),
    Metric("cpu_strangers_begun", "CPU per stranger, half a hello", "us", 0),
    Metric("strangers_held_half", "memory at most beside a half-open crowd", "MB", 1),
    Metric("strangers_held_garbage", "memory at most beside a garbage crowd", "MB", 1),
    Metric("strangers_held_begun", "memory at most beside half hellos", "MB", 1),
    Metric("strangers_lost", "live connections lost to crowds", "", 0),
    Metric("strangers_failed", "newcomers and members not served", "", 0),
    Metric("strangers_memory", "memory not given back in a minute", "MB", 1),
    Metric("survive_lost", "live connections lost to upgrades", "", 0),
    Metric("survive_failed", "new ones that failed beside them", "", 0),
    Metric("survive_slower", "longest answer, beyond that without upgrades", "ms", 0),
    Metric("survive_back", "counters that went back", "", 0),
    Metric("survive_hand_over", "hand-over of a node, the longest", "s", 2),
    Metric("survive_state", "what goes for a tunnel, beside bytes under way", "kB", 2),
    Metric("survive_memory", "memory after all upgrades / before", "", 2),
    Metric("survive_descriptors", "descriptors after all upgrades / before", "", 2),
    Metric("survive_killed_failed", "connects that failed while nobody was there", "", 0),
    Metric("survive_killed_longest", "longest new one, all of ztun killed", "s", 1),
    Metric("survive_killed_told", "from the next start until what was cut is told", "s", 1),
)
METRICS += tuple(
    Metric(
        f"double_{way}_{to}_{metric.key}",
        f"{metric.label}, through {gateway} gateway, over {title}",
        "",
        2,
    )
    for way, gateway in (("by-ours", "our"), ("by-envoy", "Envoy's"))
    for to, title in (("single", "HBONE alone"), ("envoy", "three Envoys"))
    for metric in METRICS[:4]
)
KEYS = frozenset({"metrics", "at_least", "at_most", "aim", "to", "commit", "workers", "bench"})
LABELS = {metric.key: metric.label.strip() for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on ztun over a peer for some metrics.

    `aim`: where it is to get beyond the bound, which nothing fails for. `commit`: of the peer `before`, and `workers`:
    how many each agent has, where the bound is for those alone. `bench`: of which bench, where that has one of its own.
    """

    metrics: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None
    to: str = "envoy"
    aim: float | None = None
    commit: str = ""
    workers: int = 0
    bench: str = ""

    def is_for(self, commit: str, workers: int) -> bool:
        """Whether it counts in a run against that commit (empty: against none), with so many workers."""
        is_peer = not self.commit or (bool(commit) and commit.startswith(self.commit))
        return is_peer and self.workers in (0, workers) and not self.bench


class TargetsError(ValueError):
    """The file of targets is wrong; the text says where."""


def read_targets(document: Mapping[str, Any]) -> list[Target]:
    """The targets of a parsed targets.toml."""
    found = []
    for name, entry in document.items():
        unknown = set(entry["metrics"]) - LABELS.keys() | entry.keys() - KEYS
        bounds = {key: entry[key] for key in ("at_least", "at_most") if key in entry}
        if unknown or len(bounds) != 1:
            raise TargetsError(
                f"[{name}]: want known metrics and one of at_least, at_most; unknown: {sorted(unknown)}"
            )
        to = entry.get("to", "envoy")
        if to not in PEERS:
            raise TargetsError(f"[{name}]: to = {to!r}; want one of {', '.join(PEERS)}")
        more = {key: entry[key] for key in ("aim", "commit", "workers", "bench") if key in entry}
        found.append(Target(tuple(entry["metrics"]), **bounds, to=to, **more))
    return found


def targets() -> list[Target]:
    """Those of the file."""
    return read_targets(tomllib.loads(TARGETS.read_text()))


def medians(samples: Samples) -> dict[str, dict[str, float]]:
    return {
        system: {metric: statistics.median(values) for metric, values in by_metric.items()}
        for system, by_metric in samples.items()
    }


def ratio(samples: Samples, metric: str, to: str) -> float | None:
    """ztun over another system, the median of all rounds; None where either is missing or is 0.

    Over itself: the metric as it is.
    """
    if to == ITSELF:
        return medians(samples)["ztun"].get(metric)
    return ratio_of(samples, metric, "ztun", to)


def ratio_of(samples: Samples, metric: str, one: str, other: str) -> float | None:
    """One system over the other, the median of all rounds; None where either is missing or is 0."""
    mine, its = samples[one].get(metric), samples[other].get(metric)
    if not mine or not its or not all(its):
        return None
    return statistics.median(first / second for first, second in zip(mine, its, strict=True))


def _applies(target: Target, samples: Samples) -> bool:
    return target.to == ITSELF or target.to in samples


def misses(samples: Samples, targets: Iterable[Target]) -> list[str]:
    """One line for each target that is not met, or not measured. Those over a system that did not run are left out."""
    lines = []
    for target in targets:
        if not _applies(target, samples):
            continue
        for metric in target.metrics:
            value = ratio(samples, metric, target.to)
            of = "" if target.to == ITSELF else f" x {SYSTEMS[target.to]}"
            shown = "not measured" if value is None else f"{value:.2f}{of}"
            what = f"{metric} ({LABELS[metric]}): {shown}, target at"
            if target.at_least is not None and (value is None or value < target.at_least):
                lines.append(f"{what} least {target.at_least:.2f}")
            if target.at_most is not None and (value is None or value > target.at_most):
                lines.append(f"{what} most {target.at_most:.2f}")
    return lines


def measured(samples: Samples, targets: Iterable[Target]) -> list[Target]:
    """The targets without those metrics that ztun has no sample of."""
    kept = [
        replace(target, metrics=tuple(each for each in target.metrics if samples["ztun"].get(each)))
        for target in targets
    ]
    return [target for target in kept if target.metrics]


def table(samples: Samples, targets: Iterable[Target]) -> str:
    """Markdown, readable as it is: a column for each system that ran, and one for ztun over each of the others.

    Metrics that nobody has are left out.
    """
    found = medians(samples)
    ran = [system for system in SYSTEMS if system in samples]
    others = [system for system in ran if system != "ztun"]
    bounds: dict[str, list[Target]] = {}
    for target in targets:
        for metric in target.metrics:
            if _applies(target, samples):
                bounds.setdefault(metric, []).append(target)
    titles = [SYSTEMS[system] for system in ran]
    rows = [["", "unit", *titles, *(f"ztun/{SYSTEMS[system]}" for system in others), "target"]]
    for row in METRICS:
        if not any(row.key in found[system] for system in ran):
            continue
        values = [_number(found[system].get(row.key), row.digits) for system in ran]
        ratios = [_number(ratio(samples, row.key, to), 2) for to in others]
        rows.append([row.label, row.unit, *values, *ratios, _bound(bounds.get(row.key, []))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in rows]
    rule = "|" + "|".join(
        "-" * (width + 1) + (":" if column > 1 else "-") for column, width in enumerate(widths)
    )
    return "\n".join([lines[0], rule + "|", *lines[1:]])


def document(samples: Samples, about: Mapping[str, Any], missed: Sequence[str]) -> dict[str, Any]:
    """Everything, for machines: what was run where, every sample, medians, ratios, misses."""
    return {
        "about": dict(about),
        "units": {metric.key: metric.unit for metric in METRICS},
        "medians": medians(samples),
        "ratios": {
            f"ztun/{to}": {metric.key: ratio(samples, metric.key, to) for metric in METRICS}
            for to in SYSTEMS
            if to != "ztun" and to in samples
        },
        "samples": samples,
        "missed": list(missed),
    }


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _bound(targets: Sequence[Target]) -> str:
    """`<= 1.02 before`; Envoy, with whom most are compared, is not named."""
    return ", ".join(
        (f">= {target.at_least:.2f}" if target.at_least is not None else f"<= {target.at_most:.2f}")
        + (f" (aim {target.aim:.2f})" if target.aim is not None else "")
        + ("" if target.to in ("envoy", ITSELF) else f" {SYSTEMS[target.to]}")
        for target in targets
    )


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        text.ljust(width) if column < 2 else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
