"""A hand-made HBONE client with a certificate of a pod, at the tunnel port of another: what it may ask for there."""

from __future__ import annotations

import pytest

from agent.model.outcome import Refusal
from agent.net.tunnel import Tunnel
from agent.proxy.pool_key import Headers, PoolKey
from agent.wire.baggage import parse_baggage
from agent.wire.hbone import connect_head
from tests.support import mesh
from tests.support.two_nodes import CLIENT, SERVER, VIP, World

NAME = mesh.host("web")


class Asked:
    """A CONNECT for whatever authority, and what was answered: status, headers, and words where it was refused.

    What was opened stays open until the world ends: the application may yet be about to accept it.
    """

    def __init__(self, world: World, authority: str) -> None:
        self.status, self.headers, self.words = 0, dict[str, str](), ""
        target = mesh.at(f"{SERVER}:15008")
        key = PoolKey(world.client.identity, (world.server.identity,), target, world.client.addresses[0])
        world.driver.call(lambda: world.here.pool.open(key, connect_head(authority), self))
        world.driver.until(lambda: bool(self.status or self.words))

    def opened(self, tunnel: Tunnel, headers: Headers) -> None:
        self.status, self.headers, self.tunnel = 200, dict(headers), tunnel

    def refused(self, refusal: Refusal) -> None:
        self.status, self.words = refusal.status, refusal.detail


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        (f"{SERVER}:8080", 200),
        (f"{SERVER}:8099", 503),
        (f"{NAME}:80", 200),
        (f"{NAME}:81", 503),
        (f"{mesh.host('other')}:80", 503),
        (f"{VIP}:80", 400),
        (f"{CLIENT}:8080", 400),
        ("127.0.0.1:8080", 400),
        ("localhost:8080", 503),
        (f"{SERVER}:15008", 503),
        (f"{SERVER}:15001", 503),
        (f"{SERVER}:15006", 503),
    ],
    ids=[
        *("a port", "a closed port", "its Service", "no port of its Service", "another Service", "a VIP"),
        *("another pod", "loopback", "localhost", "the tunnel port", "15001", "15006"),
    ],
)
def test_it_reaches_what_the_pod_is_and_nothing_else(world: World, authority: str, status: int) -> None:
    assert Asked(world, authority).status == status
    # The application's own thread says so in its own time.
    world.driver.until(lambda: world.seen == [CLIENT] * (status == 200))


def test_the_answer_says_who_has_answered(world: World) -> None:
    said = parse_baggage([Asked(world, f"{SERVER}:8080").headers["baggage"]])
    assert said["k8s.namespace.name"] == "apps", said
