"""Resources on their way to the workers: decoded once, refused by name, acknowledged when all follow."""

from __future__ import annotations

import asyncio
from typing import Any

from agent import channel
from agent.mesh_state import MeshState
from agent.pb.authorization_pb2 import Authorization
from agent.pb.workload_pb2 import Address
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION


class World:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.waited: list[int] = []
        self.store = Store(Snapshot(node="n1"))
        self.mesh = MeshState(self.store, self.sent.append, self._applied)

    async def _applied(self, revision: int) -> None:
        self.waited.append(revision)

    def accept(
        self, type_url: str, updates: dict[str, bytes], removed: tuple[str, ...] = ()
    ) -> dict[str, str]:
        return asyncio.run(self.mesh.accept(type_url, updates, removed))


def pod(uid: str, ip: bytes = b"\x0a\0\0\x01") -> bytes:
    address = Address()
    address.workload.uid, address.workload.name, address.workload.namespace = uid, "web", "apps"
    address.workload.addresses.append(ip)
    return bytes(address.SerializeToString())


def test_good_resources_reach_the_store_and_the_workers_before_the_answer() -> None:
    world = World()
    assert world.accept(ADDRESS, {"u1": pod("u1")}) == {}
    assert "u1" in world.store.current.workloads
    assert world.sent == [channel.Resources(1, ADDRESS, (("u1", pod("u1")),), [])]
    assert world.waited == [1]


def test_a_bad_resource_is_refused_by_name_and_the_others_are_applied() -> None:
    world = World()
    refused = world.accept(ADDRESS, {"u1": pod("u1"), "u2": pod("u2", b"\x01")})
    assert list(refused) == ["u2"]
    assert set(world.store.current.workloads) == {"u1"}
    assert [name for name, _ in world.sent[0].updates] == ["u1"]


def test_a_resource_under_anothers_name_is_refused() -> None:
    world = World()
    refused = world.accept(ADDRESS, {"u1": pod("somebody-else")})
    assert "somebody-else" in refused["u1"]
    assert not world.sent


def test_an_equal_push_tells_nobody() -> None:
    world = World()
    world.accept(ADDRESS, {"u1": pod("u1")})
    snapshot = world.store.current
    world.accept(ADDRESS, {"u1": pod("u1")})
    assert len(world.sent) == 1
    assert world.store.current is snapshot


def test_a_removal_of_something_unknown_tells_nobody() -> None:
    world = World()
    world.accept(ADDRESS, {}, ("nothing",))
    assert not world.sent


def test_a_new_worker_hears_policies_before_the_workloads_that_name_them() -> None:
    world = World()
    policy = Authorization(name="p", namespace="apps").SerializeToString()
    world.accept(ADDRESS, {"u1": pod("u1")})
    world.accept(AUTHORIZATION, {"apps/p": policy})
    briefed: list[Any] = []
    world.mesh.brief(briefed.append)
    assert [m.type_url for m in briefed] == [AUTHORIZATION, ADDRESS]
    assert all(m.full for m in briefed)
