"""Certificates are renewed, and those of before end, while two nodes are at work: nobody notices.

Keeper, orders and handshakes are real, and so are the signatures; the clock of the agents is ahead of the machine's by
what the test says, so that hours pass between two requests. `scripts/bench rotation` takes the time itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import closing
from functools import partial

import pytest

from agent.briefing import secret_message
from agent.identity.bundle import Issued
from agent.identity.keeper import Keeper
from agent.model.identity import Identity
from tests.support.told_worker import ToldWorker
from tests.support.two_nodes import World, exchange
from tests.support.xds import MeshCA

LIFETIME_S = 3600
ROTATIONS = 4
BACKDATED_S = ROTATIONS * LIFETIME_S
"""OpenSSL has the machine's clock: what is issued hours ahead must be valid by that one, too."""
STAYING = 4
PATIENCE_S = 30.0


class Clock:
    """Seconds since the epoch, `ahead_s` ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Authority:
    """Signs what it is asked for, for an hour from its clock's time on."""

    def __init__(self, clock: Clock) -> None:
        self._ca, self._clock = MeshCA(), clock

    async def sign(self, identity: Identity, csr_pem: str) -> tuple[str, ...]:
        start_s = self._clock() - BACKDATED_S
        leaf, root = self._ca.certify(
            csr_pem, str(identity), not_before=start_s, not_after=self._clock() + LIFETIME_S
        )
        return leaf, root


class Load:
    """Connections that stay, and one after another that needs a handshake of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._staying = [world.connect() for _ in range(STAYING)]

    def close(self) -> None:
        for app in self._staying:
            app.close()

    def once(self) -> None:
        """Raises AssertionError or OSError where one fails."""
        for app in self._staying:
            app.settimeout(PATIENCE_S)
            app.sendall(b"hello")
            assert app.recv(100) == b"hello"
        app = self._world.connect()
        app.settimeout(PATIENCE_S)
        assert exchange(app) == b"hello"
        # What it used between the nodes is let go of, so that the next one makes another.
        self._world.driver.skew_s += 1.5
        self._world.driver.until(lambda: len(self._world.here.pool.links) == STAYING)


PATIENT = {
    "pool_idle_s": "1",
    "pool_max_streams": "1",
    "handshake_timeout_s": "30",
    "connect_timeout_s": "30",
}


@pytest.mark.parametrize("world", [PATIENT], indirect=True, ids=["one-tunnel-each"])
def test_no_request_fails_while_certificates_are_renewed(world: World) -> None:
    ends = {world.client.identity: world.here, world.server.identity: world.there}
    told = {identity: ToldWorker(world.driver, plane) for identity, plane in ends.items()}
    for identity, plane in ends.items():
        world.driver.call(partial(plane.secrets.forget, identity))
    clock, serials, forgotten = Clock(), Counter[Identity](), list[Identity]()
    news = asyncio.Event()

    def take(identity: Identity, issued: Issued) -> None:
        told[identity].tell(secret_message(issued))
        serials[identity] += 1
        news.set()

    async def taken(count: int) -> None:
        while min(serials[identity] for identity in ends) < count:
            await news.wait()
            news.clear()

    async def body() -> None:
        keeper = Keeper(
            Authority(clock),
            clock=clock,
            rng=random.Random(1),
            on_credentials=take,
            on_forget=forgotten.append,
        )
        keeper.set_in_use(ends)
        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(keeper.run())
            await taken(1)
            with closing(Load(world)) as load:
                for number in range(ROTATIONS):
                    meanwhile = tasks.create_task(asyncio.to_thread(load.once))
                    # Past the half of what is left, and in the end past the end of the first ones.
                    clock.ahead_s += 0.6 * LIFETIME_S
                    for plane in ends.values():
                        plane.wall_skew_s = clock.ahead_s
                    keeper.ask_again()
                    await taken(number + 2)
                    await meanwhile
                    await asyncio.to_thread(load.once)
            renewing.cancel()

    try:
        asyncio.run(body())
    finally:
        for worker in told.values():
            worker.close()
    assert not forgotten
    assert clock.ahead_s > LIFETIME_S, "the connections that stayed have outlived their certificates"
