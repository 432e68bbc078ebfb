"""Lists come in an order that people expect: pods by name, addresses by number, points of time as text."""

from __future__ import annotations

import random

from agent.pages.times import utc
from agent.pages.worker_list import order


def test_connections_are_ordered_by_pod_and_then_by_address() -> None:
    def row(pod: str, src: str) -> dict[str, str]:
        return {"pod": pod, "direction": "inbound", "src": src}

    wanted = [
        row("demo/a", "10.0.0.9:9000"),
        row("demo/a", "10.0.0.9:10000"),
        row("demo/a", "10.0.0.10:1"),
        row("demo/a", "[fd00::9]:1"),
        row("demo/a", "[fd00::10]:1"),
        row("demo/b", "10.0.0.1:1"),
    ]
    mixed = random.Random(1).sample(wanted, len(wanted))
    assert sorted(mixed, key=order) == wanted


def test_tunnels_are_ordered_by_who_talks_to_whom() -> None:
    rows = [
        {"direction": direction, "identity": identity, "peer": peer}
        for direction in ("inbound", "outbound")
        for identity in ("a", "b")
        for peer in ("", "c", "d")
    ]
    mixed = random.Random(1).sample(rows, len(rows))
    assert sorted(mixed, key=order) == rows


def test_points_of_time() -> None:
    assert utc(0) == "1970-01-01T00:00:00.000Z"
    assert utc(1_700_000_000.2504) == "2023-11-14T22:13:20.250Z"
    assert utc(None) is None
