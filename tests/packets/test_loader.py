"""A loader that fails: one line for the user, everything that was said for who asks for it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from redirect import loader
from redirect.errors import LoaderError


@pytest.mark.kernel
def test_a_place_that_is_no_bpffs_is_said_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "redirect.loader")
    with pytest.raises(
        LoaderError, match=r"^loading the programs failed: the programs do not load: "
    ) as caught:
        loader.load(tmp_path / "pins")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert "Traceback" in caplog.text and "failed to open" in caplog.text
