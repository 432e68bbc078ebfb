"""A run directory whose workers are ended when the test is over: they are made to outlive who started them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.supervisor.orphans import end_all


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    end_all(tmp_path)
