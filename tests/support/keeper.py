"""A keeper of certificates with a CA and a clock under the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random

from agent.identity.bundle import Issued
from agent.identity.keeper import Keeper, State
from agent.identity.signer import SigningError
from agent.model.identity import Identity
from tests.support.clock import FakeClock
from tests.support.xds import PATIENCE_S, MeshCA

LIFETIME_S = 3600


WEB, DB, API = (Identity("cluster.local", "apps", name) for name in ("web", "db", "api"))


CA = MeshCA()


class Signer:
    """Counts and answers requests; holds them back while `gate` is shut; fails while `error` is set."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.asked: list[Identity] = []
        self.under_way: list[Identity] = []
        self.most_under_way = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = ""
        self.is_transient = False
        self.lifetime_s: float = LIFETIME_S
        self.uri: Callable[[Identity], str | None] = str
        self.more_roots = ""
        self.issuing: MeshCA | None = None
        """An authority under CA that makes the leaves in its place."""

    async def sign(self, identity: Identity, csr_pem: str) -> tuple[str, ...]:
        assert identity not in self.under_way, "one fetch per identity at a time"
        self.asked.append(identity)
        self.under_way.append(identity)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            await self.gate.wait()
        finally:
            self.under_way.remove(identity)
        if self.error:
            raise SigningError(self.error, is_transient=self.is_transient)
        now = self.clock.now
        end = now + self.lifetime_s
        leaf, issuer = (self.issuing or CA).certify(
            csr_pem, self.uri(identity), not_before=now, not_after=end
        )
        above = (issuer,) if self.issuing else ()
        return leaf, *above, CA.root_pem.decode() + self.more_roots


class Rig:
    def __init__(self, concurrency: int = 8) -> None:
        self.clock = FakeClock()
        self.signer = Signer(self.clock)
        self.given: list[tuple[Identity, Issued]] = []
        self.forgotten: list[Identity] = []
        self.keeper = Keeper(
            self.signer,
            clock=self.clock,
            rng=Random(1),
            on_credentials=lambda identity, issued: self.given.append((identity, issued)),
            on_forget=self.forgotten.append,
            wait=self.clock.wait,
            concurrency=concurrency,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.keeper.run())
            await self.clock.until_idle()
            yield
            task.cancel()

    async def use(self, *identities: Identity) -> None:
        self.keeper.set_in_use(identities)
        await self.clock.until_idle()

    def state(self, identity: Identity) -> State:
        return next(h.state for h in self.keeper.held() if h.identity == identity)


def run(body: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(body())
