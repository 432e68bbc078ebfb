"""What the tree says of itself is so: what it cites is there, and the picture of its folders is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.telemetry.families import ALL
from redirect.layout import REASONS
from tests.unit.test_architecture import ROOT, SOURCES

CITING = sorted(
    path
    for top in ("agent", "redirect", "bpf", "tests", "scripts", "docs", "deploy")
    for path in (ROOT / top).rglob("*")
    if path.suffix in {".py", ".c", ".h", ".proto", ".md", ".toml", ".yaml", ""}
    and path.is_file()
    and not {"pb", "vectors", "__pycache__"} & set(path.relative_to(ROOT).parts)
    and path != Path(__file__)
) + [ROOT / name for name in ("README.md", "CHANGELOG.md", "setup.cfg")]
ELSEWHERE = re.compile(r"\bfacts/|\bDESIGN\b|\bLAYOUT \d|\banchors\.md|\.\./shared")
FILE = re.compile(
    r"(?<![\w/.-])((?:agent|redirect|bpf|tests|docs|scripts|deploy)/(?:[\w.-]+/)*[\w-]+(?:\.\w+)+)(?:#([\w-]+))?"
)
MODULE = re.compile(r"`([a-z_]+)\.([a-z_0-9]+)(?:\.\w+)?`")
ROOMS = {path.parent.name for path in SOURCES} - {"agent"}


def headings(document: Path) -> set[str]:
    """The anchors of a Markdown document, as its readers get them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", CITING, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_the_tree_cites_is_in_the_tree(path: Path) -> None:
    """Files, sections of documents, and modules in backticks; a reader has nothing but the tree."""
    text = path.read_text()
    found = ELSEWHERE.search(text)
    assert not found, (
        f"{path.relative_to(ROOT)} cites {found[0]!r}, which is not in the tree" if found else ""
    )
    for name, section in FILE.findall(text):
        assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} cites {name}, which does not exist"
        assert not section or section in headings(ROOT / name), (
            f"{path.relative_to(ROOT)}: no #{section} in {name}"
        )
    for room, module in MODULE.findall(text) if path.suffix in {".py", ".md"} else []:
        assert room not in ROOMS or names_something(room, module), (
            f"{path.relative_to(ROOT)} speaks of `{room}.{module}`, which does not exist"
        )


def names_something(room: str, module: str) -> bool:
    rooms = {path.parent for path in SOURCES if path.parent.name == room}
    return any((r / f"{module}.py").exists() or (r / module).is_dir() for r in rooms)


FIGURES = {family.name for family in ALL}
FAILURES = (ROOT / "docs/OPERATIONS.md").read_text().partition("### Failures, and what shows them")[2]


def failure_rows() -> list[list[str]]:
    table = FAILURES.partition("\n## ")[0]
    rows = [re.split(r" \| ", row.strip("| ")) for row in table.splitlines() if row.startswith("| ")]
    return rows[1:]


@pytest.mark.parametrize("row", failure_rows(), ids=lambda row: row[0])
def test_each_failure_has_its_tests_and_figures(row: list[str]) -> None:
    """Failure, packets, counted by, log, test."""
    assert len(row) == 5
    tests = re.findall(r"`([a-z]\w*/[\w/]+\.py)(?:::(\w+))?`", row[4])
    assert tests
    for path, name in tests:
        source = (ROOT / "tests" / path).read_text()
        assert not name or re.search(rf"^def {name}\(", source, re.MULTILINE), f"{path} has no {name}"
    for figure in re.findall(r"`((?:ztun|istio)_\w+)`", row[2]):
        assert figure.removesuffix("_total") in FIGURES, f"there is no figure {figure}"
    for program, reason in re.findall(r"`(\w+)/([A-Z_]+)`", row[2]):
        assert (program, reason) in {(each.program, each.name) for each in REASONS}


def folders_of_the_picture() -> list[tuple[list[Path], str]]:
    """The table of docs/ARCHITECTURE.md: the places of each row, and what it says of them."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (`[\w./]+`(?:, `[\w./]+`)*) \| (.+) \|$", text, re.MULTILINE)
    return [
        ([ROOT / place for place in re.findall(r"`([^`]+)`", places)], said)
        for places, said in rows
        if "/" in places
    ]


def test_the_picture_shows_every_folder_and_nothing_that_is_not_there() -> None:
    rows = folders_of_the_picture()
    shown = {place for places, _ in rows for place in places}
    assert all(place.exists() for place in shown), f"gone: {sorted(p for p in shown if not p.exists())}"
    folders = {path.parent for path in SOURCES if path.parent != ROOT / "agent"}
    missing = {str(f.relative_to(ROOT)) for f in folders if not {f, f.parent} & shown}
    assert not missing, f"docs/ARCHITECTURE.md has no row for {sorted(missing)}"
    for places, said in rows:
        for name in re.findall(r"`([a-z_0-9]+)`", said):
            there = [found for place in places for found in (*place.rglob(name), *place.rglob(f"{name}.py"))]
            assert there, f"docs/ARCHITECTURE.md: {places[0].name} has no {name}"
