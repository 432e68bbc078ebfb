"""A loader that fails: one line for the user, and a file with everything that was said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from redirect import loader
from redirect.errors import LoaderError
from tests.packets.rig import bpffs
from tests.support import altered_programs

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


def test_what_the_verifier_says_of_a_program_is_in_the_file(tmp_path: Path) -> None:
    """Its words and the instruction they are about: all there is to go by on a kernel that nobody has tried."""
    record, opening = tmp_path / "loader-failed.log", "int to_pod(struct __sk_buff *skb) {\n"
    unsafe = (
        f"{opening}    volatile int *nowhere = (int *)(long)skb->len;\n    if (*nowhere)\n        return 1;\n"
    )
    with bpffs() as place:
        told = altered_programs.load(
            tmp_path / "tree", "to_pod.c", opening, unsafe, pins=place / "x", record=record
        )
        assert (
            told.startswith("loading the programs failed: the programs do not load: ") and str(record) in told
        )
        assert not list(place.glob("*/prog_*"))
    assert "invalid mem access" in record.read_text()


def test_a_machine_that_takes_longer_than_it_may_is_named(tmp_path: Path) -> None:
    record = tmp_path / "loader-failed.log"
    with pytest.raises(LoaderError, match=r"it took more than 0\.01 s.*--load-timeout-s"):
        loader.load(tmp_path / "pins", record, 0.01)
