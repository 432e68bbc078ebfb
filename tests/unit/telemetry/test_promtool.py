"""What is exposed passes `promtool check metrics`: by its rules here, and by promtool itself where that is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome
from agent.model.workload import Workload
from agent.telemetry.exposition import PLAIN, expose
from agent.telemetry.families import ALL, SUM, Kind
from agent.telemetry.metrics import Metrics
from agent.telemetry.record import Opened, labels

A, B = SocketAddress.parse("10.0.0.1:40000"), SocketAddress.parse("10.0.0.2:80")
UNITS = re.compile(
    r"_(s|ms|us|ns|sec|b|kb|mb|gb|tb|pb|m|h|d|milliseconds|microseconds|minutes|hours|days)(_|$)"
)
TYPES = re.compile(r"_(counter|gauge|summary|untyped|histogram)(_|$)")
"""Rules of promlint, the package behind promtool (client_golang, prometheus/testutil/promlint/validations)."""


def everything() -> str:
    """Each metric there is, agent's and control plane's, at least once."""
    metrics = Metrics("w1")
    opened = Opened(Direction.OUTBOUND, A, B, Workload("a", "a", "ns", workload_name="a"))
    for outcome in (Outcome.OK, Outcome.CONNECT_FAILED):
        handle = metrics.open(labels(opened))
        handle.add_bytes(to_server=1, to_client=1)
        handle.close(outcome)
    metrics.open(labels(opened))
    for family in ALL:
        if not family.name.startswith("istio_tcp_"):
            labelled = [f"some {name}" for name in family.labels]
            bounds = [("+Inf",), (SUM,)] if family.kind is Kind.HISTOGRAM else [()]
            for bound in bounds:
                metrics.figures.put(family, *labelled, *bound, count=1)
    return expose(metrics.snapshot(), PLAIN).decode()


def complaints(metric: Metric) -> list[str]:
    names = {sample.name for sample in metric.samples}
    found = [f"{name}: camelCase" for name in names if name != name.lower()]
    if not metric.documentation:
        found.append("no help text")
    if any((metric.type == "counter") is not name.endswith("_total") for name in names):
        found.append("_total is for counters")
    if metric.type not in ("unknown", "histogram") and any(
        name.endswith(("_count", "_bucket", "_sum")) for name in names
    ):
        found.append("a suffix of histograms and summaries")
    if UNITS.search(metric.name) or TYPES.search(metric.name) or ":" in metric.name:
        found.append("a unit that is no base unit, or a type, in the name")
    for sample in metric.samples:
        found += [f"label {label}" for label in sample.labels if not re.fullmatch(r"[a-z_]+", label)]
    return found


def test_every_metric_keeps_the_rules_of_promtool() -> None:
    exposed = list(text_string_to_metric_families(everything()))
    assert len(exposed) == len(ALL)
    found = {metric.name: complaints(metric) for metric in exposed}
    assert not {name: what for name, what in found.items() if what}


def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if promtool is None:
        pytest.skip("promtool is missing: scripts/setup dev takes it from Debian's package prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=everything(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
