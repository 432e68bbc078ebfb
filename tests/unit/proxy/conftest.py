"""Two nodes for the tests of connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.told_worker import ToldWorker
from tests.support.two_nodes import World, running


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Parametrized indirectly with options of the agents where a test wants others than the defaults."""
    with running(**getattr(request, "param", {})) as made:
        yield made


@pytest.fixture
def told(world: World) -> Iterator[ToldWorker]:
    """The worker of the server's node."""
    made = ToldWorker(world.driver, world.there)
    try:
        yield made
    finally:
        made.close()
