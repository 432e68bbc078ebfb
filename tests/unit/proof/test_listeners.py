"""A listener is proven by a worker that closes the dial, by nothing less: real sockets on loopback."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from agent.proof.findings import Finding, Link
from agent.proof.listeners import ListenerCheck, Served


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def fresh(netns: str, family: int, count: int) -> list[socket.socket]:
    return [socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(count)]


def check(port: int, patience_s: float = 0.2) -> list[Finding]:
    one = ListenerCheck((Served("hbone", "", port),), "127.0.0.1", fresh, 1, patience_s)
    return asyncio.run(one())


def test_a_worker_that_closes_the_dial_proves_its_listener(listener: socket.socket) -> None:
    async def scenario() -> list[Finding]:
        peers = []

        async def worker() -> None:
            loop = asyncio.get_running_loop()
            listener.setblocking(False)
            sock, peer = await loop.sock_accept(listener)
            peers.append((peer[0], sock.getsockname()[0]))
            sock.close()

        port = listener.getsockname()[1]
        one = ListenerCheck((Served("hbone", "", port),), "127.0.0.1", fresh, 1)
        findings, _ = await asyncio.gather(one(), worker())
        # By these a worker knows the dial.
        assert peers == [("127.0.0.1", "127.0.0.1")]
        return findings

    assert asyncio.run(scenario()) == []


def test_a_queue_that_nobody_serves_is_found(listener: socket.socket) -> None:
    (finding,) = check(listener.getsockname()[1])
    assert finding.link is Link.LISTENER
    assert finding.reason.startswith(
        f"nobody accepts on the hbone listener (port {listener.getsockname()[1]})"
    )


def test_no_listener_at_all_is_found(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    (finding,) = check(port)
    assert "cannot be reached: Connection refused" in finding.reason


def test_a_reset_proves_nothing(listener: socket.socket) -> None:
    async def scenario() -> list[Finding]:
        async def closing() -> None:
            listener.setblocking(False)
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            sock.close()

        one = ListenerCheck((Served("hbone", "", listener.getsockname()[1]),), "127.0.0.1", fresh, 1)
        findings, _ = await asyncio.gather(one(), closing())
        return findings

    (finding,) = asyncio.run(scenario())
    assert "Connection reset by peer" in finding.reason


def test_one_worker_of_several_that_does_not_accept_is_found(listener: socket.socket) -> None:
    async def scenario() -> list[Finding]:
        async def half_of_it() -> None:
            listener.setblocking(False)
            for _ in range(2):
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
                sock.close()

        served = (Served("hbone", "", listener.getsockname()[1]),)
        findings, _ = await asyncio.gather(ListenerCheck(served, "127.0.0.1", fresh, 4, 0.2)(), half_of_it())
        return findings

    (finding,) = asyncio.run(scenario())
    assert "a worker does not accept on the hbone listener" in finding.reason
    assert "of 4 dials 2 hang" in finding.reason


def test_a_dial_that_cannot_be_made_says_nothing_of_the_listener(listener: socket.socket) -> None:
    """The control process has no descriptors left, or the name of a namespace is gone: connections go on."""

    def none(netns: str, family: int, count: int) -> list[socket.socket]:
        raise OSError(errno.EMFILE, "Too many open files")

    port = listener.getsockname()[1]
    one = ListenerCheck((Served("hbone", "", port),), "127.0.0.1", none, 2, 0.2)
    (finding,) = asyncio.run(one())
    assert finding.link is Link.PROOF
    assert finding.reason == f"the hbone listener (port {port}) cannot be proven: Too many open files"
