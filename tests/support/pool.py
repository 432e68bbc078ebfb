"""A pool with dials, links and tunnels under the test's hand."""

from __future__ import annotations

import socket
from typing import Any

from agent.identity.faults import Fault
from agent.model.address import SocketAddress, parse_ip
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Loop
from agent.net.tunnel import Standstill
from agent.proxy.pool import Pool, PooledLink, Waiter
from agent.proxy.pool_key import PoolKey
from agent.proxy.tallies import Tallies
from agent.wire.hbone import connect_head

SOURCE = Identity("cluster.local", "apps", "client")


SERVER = Identity("cluster.local", "apps", "server")


HEAD = connect_head("10.0.0.2:80")
ANSWER_S = 30.0


def key(client: str = "10.0.0.1", target: str = "10.0.0.2:15008") -> PoolKey:
    return PoolKey(SOURCE, (SERVER,), SocketAddress.parse(target), parse_ip(client))


class FakeTunnel:
    failure: Refusal | None = None
    is_unseen = False

    def __init__(self, link: FakeLink, asker: Any) -> None:
        self.link = link
        self.asker = asker

    def reset(self) -> None:
        if self in self.link.asked:
            self.link.asked.remove(self)
            self.link.open_streams -= 1


class FakeLink:
    """A link whose peer allows `limit` tunnels; answers are given by the test."""

    def __init__(self, events: PooledLink) -> None:
        self.events: Any = events
        self.limit = 100
        self.asked: list[FakeTunnel] = []
        self.open_streams = 0
        self.is_usable = True
        self.is_crowded = False
        self.standstill = Standstill(0, 0, 0)
        self.secured: object = None
        self.tls = self
        self.fault: Fault | None = None
        self.went_away = False

    def start(self) -> None:
        pass

    @property
    def free_streams(self) -> int:
        return max(0, self.limit - self.open_streams) if self.is_usable else 0

    def open(self, head: object, asker: Any) -> FakeTunnel:
        self.open_streams += 1
        self.asked.append(FakeTunnel(self, asker))
        return self.asked[-1]

    def answer(self, status: int = 200, *, is_unseen: bool = False) -> None:
        tunnel = self.asked.pop(0)
        tunnel.is_unseen = is_unseen
        if status:
            tunnel.asker.answered(tunnel, status, ())
        else:
            tunnel.asker.gone(tunnel)

    def secure(self, limit: int = 100) -> None:
        """The handshake is done and the peer's SETTINGS are here."""
        self.limit = limit
        self.secured = object()
        self.events.available(self)

    def go_away(self) -> None:
        self.went_away = True
        self.is_usable = False

    def abort(self, outcome: Outcome, detail: str) -> None:
        if self.is_usable:
            self.is_usable = False
            while self.asked:
                self.answer(0)
            self.events.closed(self, outcome, detail)


class FakeDial:
    """A dial the test completes by hand."""

    def __init__(self, key: PoolKey, owner: Any) -> None:
        self.key = key
        self.owner = owner
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """A pool whose dials and links are the test's, and who waits for tunnels: its connector and its owner."""

    def __init__(self, streams_limit: int = 100) -> None:
        self.now = 0.0
        self.loop = Loop(lambda: self.now, lambda error, fd: None)
        self.dials: list[FakeDial] = []
        self.links: list[FakeLink] = []
        self.no_certificate: Refusal | None = None
        self.tallies = Tallies()
        self.pool = Pool(
            self.loop,
            self,  # type: ignore[arg-type]
            self.tallies,
            streams_limit=streams_limit,
            idle_s=300.0,
            answer_s=ANSWER_S,
        )
        self.tunnels: list[Any] = []
        self.refusals: list[Refusal] = []

    def dial(self, key: PoolKey, owner: Any) -> FakeDial:
        self.dials.append(FakeDial(key, owner))
        return self.dials[-1]

    def link(self, key: PoolKey, sock: socket.socket, events: PooledLink) -> FakeLink:
        if self.no_certificate is not None:
            raise self.no_certificate
        self.links.append(FakeLink(events))
        return self.links[-1]

    def opened(self, tunnel: Any, headers: object) -> None:
        self.tunnels.append(tunnel)

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def want(self, count: int = 1, **fields: str) -> list[Waiter]:
        return [self.pool.open(key(**fields), HEAD, self) for _ in range(count)]

    def dialled(self) -> FakeLink:
        """The oldest dial connects; the handshake follows."""
        self.dials.pop(0).owner.connected(None)
        return self.links[-1]

    def connect(self, limit: int = 100) -> FakeLink:
        link = self.dialled()
        link.secure(limit)
        return link
