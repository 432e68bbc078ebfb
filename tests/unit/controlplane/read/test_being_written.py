"""A manifest that is written in its place, piece by piece: nothing of it is gone until its writer has been quiet."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.controlplane.read.birth import born_ns
from agent.controlplane.read.directory import SETTLE_S, ManifestDirectory
from agent.controlplane.state_dir import StateDirectory
from tests.support.controlplane import NAMESPACE, deny, pod

CLOCK_REALTIME_COARSE = 5
"""Of <linux/time.h>: the clock of file systems, which ticks some hundred times a second."""
WEB, DENY = pod("web-0", "node-a", "10.10.0.5"), deny("d")
WHOLE = NAMESPACE + WEB + DENY


class Place:
    """A directory with one file, and the time as it sees it: so long after the last change of that file."""

    def __init__(self, root: Path) -> None:
        (root / "manifests").mkdir()
        self.file = root / "manifests" / "all.yaml"
        self.file.write_text(WHOLE)
        self.quiet_s = 0.0
        self.directory = ManifestDirectory(
            root / "manifests",
            StateDirectory(root / "state"),
            lambda: os.stat(self.file).st_mtime_ns / 1e9 + self.quiet_s,
        )
        self.directory.read()

    def served(self) -> list[str]:
        self.directory.read()
        return [str(made.meta) for made in self.directory.reading.standing.served()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    "beginning", ["", NAMESPACE, NAMESPACE + WEB, WHOLE[:-30]], ids=["empty", "one", "two", "cut"]
)
def test_what_its_writer_has_not_come_to_stays_in_force(place: Place, beginning: str) -> None:
    everything = place.served()
    place.file.write_text(beginning)
    assert place.served() == everything and place.directory.is_unsettled
    assert not place.directory.reading.standing.refused
    place.file.write_text(WHOLE + deny("e"))
    assert len(place.served()) == len(everything) + 1 and not place.directory.is_unsettled


def test_once_its_writer_is_quiet_what_is_not_there_is_gone(place: Place) -> None:
    everything = place.served()
    place.file.write_text(NAMESPACE + WEB)
    assert place.served() == everything
    place.quiet_s = SETTLE_S
    assert len(place.served()) == len(everything) - 1 and not place.directory.is_unsettled


def test_a_file_that_is_put_in_its_place_is_whole_at_once(place: Place) -> None:
    everything = place.served()
    draft = place.file.with_suffix(".new")
    draft.write_text(NAMESPACE + WEB)
    draft.replace(place.file)
    assert len(place.served()) == len(everything) - 1


def test_a_new_file_with_the_inode_number_of_the_old_is_whole_at_once(place: Place) -> None:
    everything, before = place.served(), os.stat(place.file)
    if born_ns(place.file) is None:
        pytest.skip("a file system that keeps the birth of files")
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= before.st_ctime_ns:
        pass
    place.file.unlink()
    place.file.write_text(NAMESPACE + WEB)
    if os.stat(place.file).st_ino != before.st_ino:
        pytest.skip("a file system that uses inode numbers again at once")
    assert len(place.served()) == len(everything) - 1 and not place.directory.is_unsettled


def test_a_time_that_was_set_back_makes_no_new_file_of_one_that_is_written(place: Place) -> None:
    place.quiet_s = 0.1
    os.utime(place.file, (0, 0))
    everything = place.served()
    place.file.write_text(NAMESPACE + WEB)
    assert place.served() == everything and place.directory.is_unsettled


def test_a_clock_that_is_behind_the_file_systems_holds_up_nothing(place: Place) -> None:
    everything = place.served()
    place.quiet_s = -60.0
    place.file.write_text(NAMESPACE + WEB)
    assert len(place.served()) == len(everything) - 1
