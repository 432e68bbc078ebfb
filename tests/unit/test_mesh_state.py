"""Resources on their way to the workers: decoded once, refused by name, acknowledged when all follow."""

from __future__ import annotations

import asyncio
from typing import Any

from agent import channel
from agent.mesh_state import MeshState
from agent.model.policy import Action, RefusedPolicy, Scope
from agent.pb.authorization_pb2 import Authorization
from agent.pb.workload_pb2 import Address
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, Received


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


def policy(scope: int = 1, *, good: bool = True, action: int = 0) -> bytes:
    """A policy of namespace apps; a bad one has a match of no kind."""
    message = Authorization(name="p", namespace="apps", scope=scope, action=action)
    match = message.rules.add().clauses.add().matches.add()
    match.principals.add(**({"exact": "a"} if good else {}))
    return bytes(message.SerializeToString())


WHY = "rules[0].clauses[0].matches[0].principals[0]: no kind of match is set"


def test_workers_hear_of_a_policy_that_is_refused_and_of_its_end() -> None:
    world = World()
    assert world.accept(AUTHORIZATION, {"apps/p": policy(good=False)}) == {"apps/p": WHY}
    row = ("apps/p", WHY, "Namespace", "apps", False)
    assert world.sent == [channel.Resources(1, AUTHORIZATION, (), [], False, (row,))]
    assert world.store.current.refused_policies == {"apps/p": RefusedPolicy(WHY, Scope.NAMESPACE, "apps")}
    assert (world.mesh.refused(AUTHORIZATION), world.mesh.refused(ADDRESS)) == ({"apps/p": WHY}, {})
    world.accept(AUTHORIZATION, {"apps/p": policy(good=False)})
    assert len(world.sent) == 1, "nothing new"
    briefed: list[Any] = []
    world.mesh.brief(briefed.append)
    assert [message.refused for message in briefed] == [(row,), ()]
    world.accept(AUTHORIZATION, {"apps/p": policy()})
    assert world.sent[1].refused == () and world.store.current.refused_policies == {}


def test_a_refusal_ends_with_the_resource_and_with_what_a_new_stream_says() -> None:
    for end in (
        lambda world: world.accept(AUTHORIZATION, {}, ("apps/p",)),
        lambda world: asyncio.run(world.mesh.accept_response(Received(AUTHORIZATION, "n", is_first=True))),
    ):
        world = World()
        world.accept(AUTHORIZATION, {"apps/p": policy(good=False)})
        asyncio.run(world.mesh.accept_response(Received(AUTHORIZATION, "n")))
        assert world.store.current.refused_policies
        end(world)
        assert world.store.current.refused_policies == {} and world.sent[-1].refused == ()


def test_of_a_policy_that_cannot_be_read_everybody_may_be_meant() -> None:
    for raw in (b"\xff\xff", policy(7), policy(0, good=False)):
        world = World()
        world.accept(AUTHORIZATION, {"apps/p": raw})
        assert world.store.current.refused_policies["apps/p"].scope is Scope.GLOBAL


def test_a_refused_update_leaves_the_version_before_in_force() -> None:
    world = World()
    world.accept(AUTHORIZATION, {"apps/p": policy(action=1)})
    world.accept(AUTHORIZATION, {"apps/p": policy(good=False)})
    assert world.store.current.policies["apps/p"].action is Action.DENY
    assert list(world.store.current.refused_policies) == ["apps/p"]
    briefed: list[Any] = []
    world.mesh.brief(briefed.append)
    assert [name for name, _ in briefed[0].updates] == ["apps/p"]


def test_a_refused_address_is_listed_and_no_news_for_workers() -> None:
    world = World()
    world.accept(ADDRESS, {"u1": pod("u1", b"\x01")})
    assert list(world.mesh.refused(ADDRESS)) == ["u1"] and not world.sent
    world.accept(ADDRESS, {"u1": pod("u1")})
    assert world.mesh.refused(ADDRESS) == {}
