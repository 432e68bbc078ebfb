"""What istioctl reads of a dump, and what it printed of this one (`tests/vectors/istioctl`)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from tests.support.dumped import VECTORS, dump
from tests.support.istioctl_tables import COLUMNS, TABLES, Table, printed

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def table(name: str) -> Table:
    return TABLES[name](json.loads(dump()), NOW)


def test_the_dump_is_the_one_that_istioctl_was_given() -> None:
    assert dump() == (VECTORS / "dump.json").read_bytes(), (
        "print it anew, and have istioctl read it: README.md there"
    )


@pytest.mark.parametrize("name", TABLES)
def test_no_column_is_blank(name: str) -> None:
    rows = table(name)
    assert rows and all(tuple(row) == COLUMNS[name] for row in rows)
    assert not [row for row in rows if not all(row.values())]


@pytest.mark.parametrize("name", TABLES)
def test_istioctl_prints_what_is_read_here(name: str) -> None:
    """So what the other tests say of tables is what people see."""
    assert printed((VECTORS / f"{name}.txt").read_text()) == table(name)


def test_waypoints_and_services_have_their_names() -> None:
    assert {row["POD NAME"]: row["WAYPOINT"] for row in table("workloads")}["server"] == "waypoint"
    assert {row["SERVICE NAME"]: (row["WAYPOINT"], row["ENDPOINTS"]) for row in table("services")} == {
        "web": ("waypoint", "1/2"),
        "waypoint": ("None", "1/1"),
    }
    assert {row["REMOTE TARGET"] for row in table("connections")} == {
        "web.demo.svc.cluster.local:80",
        "192.0.2.1:443",
        "waypoint.demo.svc.cluster.local",
        "10.77.2.15:80",
    }


def test_certificates_are_certificates_and_no_keys() -> None:
    text = dump().decode()
    assert "PRIVATE" not in text and not re.search(r'"(key|privateKey)"', text)
    assert [(row["TYPE"], row["STATUS"], row["SERIAL NUMBER"]) for row in table("certificates")] == [
        ("Leaf", "Available", "8123456789abcdef0123456789abcdef"),
        ("Intermediate", "Available", "abcdef"),
        ("Root", "Available", "f00dfeedcafe0123456789abcdef0011"),
        ("NA", "Initializing", "NA"),
        ("NA", "Unavailable", "NA"),
    ]
