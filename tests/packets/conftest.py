"""The rig of this folder: built once, entered for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from redirect import map_memory, netns
from tests.packets.rig import Rig, built


@pytest.fixture(scope="session", autouse=True)
def _room() -> None:
    """For the maps that the tests make themselves, where they count against RLIMIT_MEMLOCK (before Linux 5.11)."""
    if os.geteuid() == 0:
        map_memory.ensure()


@pytest.fixture(scope="session")
def whole_rig() -> Iterator[Rig]:
    with built() as rig:
        yield rig


@pytest.fixture
def rig(whole_rig: Rig) -> Iterator[Rig]:
    """The programs and maps, with the test's thread in the node's namespace."""
    with netns.entered(whole_rig.paths["host"]):
        yield whole_rig
