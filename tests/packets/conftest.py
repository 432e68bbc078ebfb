"""The rig of this folder: built once, entered for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redirect import netns
from tests.packets.rig import Rig, built


@pytest.fixture(scope="session")
def whole_rig() -> Iterator[Rig]:
    with built() as rig:
        yield rig


@pytest.fixture
def rig(whole_rig: Rig) -> Iterator[Rig]:
    """The programs and maps, with the test's thread in the node's namespace."""
    with netns.entered(whole_rig.paths["host"]):
        yield whole_rig
