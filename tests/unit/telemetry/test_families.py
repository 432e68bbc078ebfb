"""Every metric has a writer and a line in the documents, and a name as Prometheus wants it."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from agent.telemetry import families
from agent.telemetry.families import ALL, Family, Kind
from agent.telemetry.metrics import Figures
from agent.telemetry.pod_figures import PodFigures
from agent.telemetry.xds_figures import END_REASONS, XdsFigures

ROOT = Path(__file__).parents[3]
NAMES = {name: value for name, value in vars(families).items() if isinstance(value, Family)}
ABBREVIATED = re.compile(r"(^|_)(s|ms|us|ns|sec|secs|kb|mb|kib|mib|b|min|mins|hours|days|percent)(_|$)")


@functools.cache
def writers() -> dict[str, set[str]]:
    """Constant -> files of the agent that use it."""
    found: dict[str, set[str]] = {name: set() for name in NAMES}
    for path in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "families"
            ):
                found[node.attr].add(path.name)
    return found


def test_the_constants_are_all_there_are() -> None:
    assert set(ALL) == set(NAMES.values()) and len({family.name for family in ALL}) == len(ALL)


@pytest.mark.parametrize("name", NAMES)
def test_each_family_is_written_somewhere(name: str) -> None:
    """That what is written there arrives is for the mesh in the lab to show (tests/lab/test_mesh_workers.py)."""
    assert writers()[name]


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_each_family_is_documented(family: Family) -> None:
    suffix = "_total" if family.kind is Kind.COUNTER else ""
    assert f"`{family.name}{suffix}" in (ROOT / "docs" / "OPERATIONS.md").read_text()


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_names_are_as_promtool_wants_them(family: Family) -> None:
    """`promtool check metrics`; what is ztunnel's keeps its name."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name) and family.text
    assert not family.name.endswith(("_total", "_bucket", "_sum")), "the exposition adds what belongs there"
    assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in family.labels)
    if family.name.startswith("ztun_"):
        assert not family.name.endswith("_count")
        assert not ABBREVIATED.search(family.name)
        assert not {"gauge", "counter"} & set(family.name.split("_"))


def test_counters_of_the_discovery_stream_are_there_from_zero_on() -> None:
    figures = Figures()
    watch = XdsFigures(figures, ("a",))
    watch.message("a", 7)
    for number in range(100):
        watch.message(f"type.googleapis.com/never.asked.for.{number}", 1)
    watch.terminated("Error")
    rows = {(name, *labels): count for name, labels, count in figures.items()}
    assert (rows["istio_xds_message", "a"], rows["istio_xds_message_bytes", "a"]) == (1, 7)
    assert {url for name, url in rows if name == "istio_xds_message"} == {"a", "other"}
    assert rows["istio_xds_message", "other"] == 100
    assert [rows["istio_xds_connection_terminations", reason] for reason in END_REASONS] == [0, 1, 0]


def test_pods_are_counted_as_they_come_and_go() -> None:
    figures = Figures()
    pods = PodFigures(figures)

    def counted() -> tuple[float, float]:
        rows = {name: count for name, _, count in figures.items()}
        return rows["workload_manager_proxies_started"], rows["workload_manager_proxies_stopped"]

    assert counted() == (0, 0)
    pods.served(["a", "b"])
    pods.served(["a", "b"])
    assert counted() == (2, 0)
    for _ in range(2):
        pods.served(["b", "c"])
        assert counted() == (3, 1)
