"""docs/conformance.md goes through upstream's tests by name: the tests of ours that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "conformance.md").read_text()
ONE_BY_ONE = TEXT.partition("## Upstream's tests, one by one")[2]
NAMED = sorted(set(re.findall(r"`([a-z]\w*/[\w/]+\.py)::(\w+)`", ONE_BY_ONE)))


def rows() -> list[tuple[str, str]]:
    """What upstream calls it, and what is said of it here."""
    found = re.findall(r"^\| (.+?) \| (.+) \|$", ONE_BY_ONE, re.M)
    return [(upstream, here) for upstream, here in found if not upstream.startswith("upstream test")]


def test_there_is_a_row_for_each_suite() -> None:
    assert len(rows()) > 120 and len(NAMED) > 150


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_the_tests_that_are_named_are_there(path: str) -> None:
    source = (ROOT / "tests" / path).read_text()
    missing = [
        name
        for where, name in NAMED
        if where == path and not re.search(rf"^(?:async )?def {name}\(", source, re.M)
    ]
    assert not missing


def test_each_row_names_a_test_or_says_why_not() -> None:
    silent = [upstream for upstream, here in rows() if "::" not in here and "not run: " not in here]
    assert not silent


def test_files_of_tests_that_the_other_parts_name_are_there() -> None:
    named = set(re.findall(r"tests/[\w/]+\.py", TEXT))
    assert named and not [name for name in named if not (ROOT / name).exists()]
