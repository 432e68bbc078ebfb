"""The mesh that the tests of one file share: everything enrolled, left by each test as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.labmesh import World, running


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    with running("a", tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])) as made:
        yield made
