"""Listeners that cannot be made, because somebody else listens in a namespace that is ztun's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from agent.listening import make_listener
from agent.model.listener import ROWS, Datagrams, Listener, Side
from redirect import netns

pytestmark = pytest.mark.kernel


@pytest.fixture
def name() -> Iterator[str]:
    name = f"zl{os.getpid()}"
    netns.create(name)
    try:
        yield name
    finally:
        netns.remove(name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_port_that_is_taken_is_named_with_where_and_how_to_see_by_whom(
    name: str, row: Listener | Datagrams
) -> None:
    homes = dict.fromkeys(Side, str(netns.path_of(name)))
    make_listener(homes, row).close()
    kind = socket.SOCK_DGRAM if isinstance(row, Datagrams) else socket.SOCK_STREAM
    with netns.entered(netns.path_of(name)):
        squatter = socket.socket(socket.AF_INET6, kind)
    with squatter:
        squatter.bind(("::", row.port))
        if kind == socket.SOCK_STREAM:
            squatter.listen()
        with pytest.raises(
            OSError, match=f"port {row.port} in the network namespace {name}: .* in use"
        ) as no:
            make_listener(homes, row)
    assert f"ip netns exec {name} ss -ltunp" in str(no.value)
