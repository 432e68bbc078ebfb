"""The note of what was built here, where there is no room for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from redirect import built


def test_programs_whose_tags_cannot_be_kept_run_all_the_same_and_are_built_anew_by_the_next_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pins: Any = SimpleNamespace(tags=tmp_path / "programs.json", generation=tmp_path)
    monkeypatch.setattr(built, "_tags", lambda _: {"from_pod": "aa"})
    built.note(pins)
    assert "aa" in pins.tags.read_text() and not caplog.messages
    monkeypatch.setattr(built, "_tags", lambda _: {"from_pod": "bb"})
    with monkeypatch.context() as full:

        def write(path: Path, text: str) -> int:
            raise OSError(28, "No space left on device")

        full.setattr(Path, "write_text", write)
        built.note(pins)
    assert f"cannot be kept in {pins.tags}: No space left on device" in caplog.text
    (doubt,) = built.others(pins)
    assert "is not known" in doubt, "no older note is taken for theirs"
    assert not [*tmp_path.iterdir()]
