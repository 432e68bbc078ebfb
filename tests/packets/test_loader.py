"""A loader that fails: one line for the user, and a file with everything that was said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from redirect import loader
from redirect.errors import LoaderError

pytestmark = pytest.mark.kernel


def test_a_failure_is_one_line_that_names_the_file_with_all_the_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "loader-failed.log"
    record.write_text("of another day")
    with pytest.raises(
        LoaderError, match=r"^loading the programs failed: the programs do not load: "
    ) as caught:
        loader.load(tmp_path / "pins", record)
    assert "\n" not in str(caught.value)
    assert f"; {record} has the compiler's and the verifier's words" in str(caught.value)
    assert capfd.readouterr() == ("", "")
    said = record.read_text()
    assert said.startswith(f"Linux {os.uname().release}")
    assert "failed to open" in said and "Traceback" in said and "another day" not in said
