"""What a socket says of its path."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from agent.net.byte_stream import LONG_S, SocketStream
from agent.net.loop import Loop
from tests.support.netpair import tcp_pair


@pytest.fixture
def loop() -> Iterator[Loop]:
    with contextlib.closing(Loop(time.monotonic, lambda error, fd: None)) as made:
        yield made


def test_the_round_trip_is_what_the_kernel_has_seen(loop: Loop) -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        assert 0 < SocketStream(loop, ours).round_trip_s() < LONG_S


def test_where_there_is_no_path_it_is_long(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert SocketStream(loop, ours).round_trip_s() == LONG_S
