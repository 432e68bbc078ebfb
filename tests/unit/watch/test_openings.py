"""Pods that are open: told when it begins and when it is over, and counted meanwhile."""

from __future__ import annotations

import logging

import pytest

from agent.telemetry.metrics import Figures
from agent.watch.openings import Openings
from redirect.layout import Flag, IfaceEntry
from redirect.opened import Opened, Target
from redirect.opening import Opening

POD = Target(7, "veth7", "demo/web", IfaceEntry(Flag.ENROLLED, b"\1" * 16, bytes(16)))
OWN = Opened(POD, Opening(900, 1, who="root", reason="mesh down"), 75.0)
ALL = Opened(None, Opening(500, 1, who="eve", reason="all of it"), 30.0)


def read(figures: Figures) -> dict[tuple[str, ...], float]:
    return {(name, *labels): value for name, labels, value in figures.items()}


def test_each_is_told_once_when_it_begins_changes_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    figures = Figures()
    openings = Openings(figures, wall=lambda: 1000.0)
    with caplog.at_level(logging.WARNING):
        for seen in ((), (OWN,), (OWN,), (ALL, OWN), (ALL,), ()):
            openings.seen(seen)
        longer = Opened(POD, Opening(2000, 1, who="root", reason="mesh down"), 200.0)
        openings.seen((OWN,))
        openings.seen((longer,))
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in told] == [
        "bypass",
        "bypass",
        "bypass of demo/web is over",
        "bypass of this node is over",
        "bypass",
        "bypass",
    ]
    assert told[0] == (
        "bypass: pod demo/web speaks in clear, and policies refuse nobody there, until 1970-01-01T00:17:55Z: "
        "mesh down (by root)"
    )
    assert "all pods of this node speak in clear" in told[1]


def test_figures_and_rows_say_what_lasts() -> None:
    figures = Figures()
    openings = Openings(figures, wall=lambda: 1000.0)
    openings.seen(())
    assert read(figures)["ztun_bypasses", "node"] == read(figures)["ztun_bypasses", "pod"] == 0
    openings.seen((ALL, OWN))
    now = read(figures)
    assert (now["ztun_bypasses", "node"], now["ztun_bypasses", "pod"]) == (1, 1)
    assert (now["ztun_bypass_left_seconds", "node"], now["ztun_bypass_left_seconds", "pod"]) == (30, 75)
    assert [(row["scope"], row["pod"], row["left_s"]) for row in openings.rows()] == [
        ("node", "", 30.0),
        ("pod", "demo/web", 75.0),
    ]
    endings = [problem.partition("; ")[2] for problem in openings.problems]
    assert endings == ["`ztun bypass --node --off` ends it", "`ztun bypass demo/web --off` ends it"]
    openings.seen(())
    assert read(figures)["ztun_bypasses", "pod"] == 0 and not openings.problems and not openings.rows()
