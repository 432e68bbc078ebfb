"""Which build lies on the disk, and whether it is this process's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent import build
from agent.build import CodeReplaced, build_id, on_disk, require


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what counts, and this process taken for one that runs from there."""
    for package in build.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "part.py").write_text("pass\n")
    shutil.copy(build.__file__, tmp_path / "agent" / "build.py")
    monkeypatch.setattr(build, "__file__", str(tmp_path / "agent" / "build.py"))
    return tmp_path


def test_what_was_replaced_in_place_is_another_build(tree: Path) -> None:
    began_with = on_disk()
    require(began_with)
    (tree / "redirect" / "part.py").write_text("pass  # another one\n")
    with pytest.raises(CodeReplaced, match=f"build {began_with}, and [0-9a-f]{{8}} lies on the disk"):
        require(began_with)
    (tree / "redirect" / "part.py").write_text("pass\n")
    require(began_with)


def test_a_process_goes_on_being_what_it_was(tree: Path) -> None:
    was = build_id()
    (tree / "agent" / "part.py").unlink()
    assert build_id() == was != on_disk()
