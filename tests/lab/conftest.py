"""What the tests of one file share, a mesh most of all: everything enrolled, left by each test as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.labcluster import LabCluster
from tests.support.labmesh import World, running


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    with running("a", tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabCluster]:
    """The API server of a cluster that the nodes of a mesh are in."""
    made = LabCluster(tmp_path_factory.mktemp("cluster") / "api")
    with made.stack:
        yield made
