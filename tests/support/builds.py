"""Builds of ztun beside the tree's own, each as a command: an earlier commit, and what a later one may be like.

Only their sources are laid down; they run in this environment, isolated, as every process of ours does. In the pure
form, whatever the tree's own is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "redirect", "bpf")
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "*.so", "*.stamp", "build")
HAND_OVER = "bde06b5"
"""A commit of the day on which the hand-over came, with it."""
BEFORE = "eccf2ad"
"""One of before it."""


@dataclass(frozen=True)
class Edit:
    """`old` is in that file once, and is `new` there."""

    path: str
    old: str
    new: str


def command_of(there: Path) -> tuple[str, ...]:
    return (sys.executable, "-I", str(there / "redirect" / "child.py"), "agent.cli.entry", "-1")


def earlier(revision: str, there: Path) -> tuple[str, ...]:
    """The `ztun` of a commit; skips where the clone does not have it."""
    archive = subprocess.run(
        ["git", "archive", revision, *PACKAGES], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"no commit {revision} here: {archive.stderr.decode().strip()}")
    there.mkdir()
    subprocess.run(["tar", "-x"], cwd=there, input=archive.stdout, check=True)
    return command_of(there)


def later(there: Path, edits: Sequence[Edit]) -> tuple[str, ...]:
    """The `ztun` of this tree with some changes."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, there / package, ignore=NOT_SOURCES)
    for edit in edits:
        path = there / edit.path
        text = path.read_text()
        assert text.count(edit.old) == 1, f"{edit.path} has another {edit.old!r} by now"
        path.write_text(text.replace(edit.old, edit.new))
    return command_of(there)
