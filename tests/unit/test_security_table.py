"""docs/SECURITY.md names a test for each attack and each failure: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = (ROOT / "docs" / "SECURITY.md").read_text().partition("## Attacks by name")[2].split("## Failures")
ATTACKS, FAILURES = (re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", table, re.M)[1:] for table in TABLES)
ROWS = ATTACKS + FAILURES


def test_each_row_names_a_test() -> None:
    assert len(ATTACKS) >= 24 and len(FAILURES) > 10
    names = [re.match(r"\*\*(.+?)\*\*: ", row[0]) for row in ATTACKS]
    assert all(names) and len({name[1] for name in names if name}) == len(ATTACKS), (
        "attacks have names of their own"
    )
    assert not [row for row in ROWS if not re.fullmatch(r"`[\w/]+\.py::test_\w+`", row[2])]


@pytest.mark.parametrize("named", [test.strip("`") for _, _, test in ROWS])
def test_the_test_that_it_names_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / path).read_text(), re.M), named
