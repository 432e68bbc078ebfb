"""Two applications, in each shape of what is between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.joined import KINDS, Joined
from tests.support.netpair import node


@pytest.fixture(params=KINDS)
def joined(request: pytest.FixtureRequest) -> Iterator[Joined]:
    with node() as it:
        yield Joined(it, request.param)


@pytest.fixture(params=["plain", "tunnel"])
def proxied(request: pytest.FixtureRequest) -> Iterator[Joined]:
    with node() as it:
        yield Joined(it, request.param)


@pytest.fixture
def tunnelled() -> Iterator[Joined]:
    with node() as it:
        yield Joined(it, "tunnel")
