"""Resources on their way to the workers: decoded once, refused by name, acknowledged when all follow."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from agent import channel
from agent.mesh_state import PART, MeshState
from agent.model.policy import Action, RefusedPolicy, Scope
from agent.model.steps import PACE, SLICE_S
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


def test_nothing_goes_in_the_clear_to_what_cannot_be_used_until_it_can() -> None:
    world = World()
    ports = Address()
    ports.workload.uid, ports.workload.network = "u2", "n1"
    ports.workload.addresses.append(b"\x0a\0\0\x02")
    ports.workload.services["a/b"].ports.add(service_port=99999)
    world.accept(ADDRESS, {"u1": pod("u1"), "u2": ports.SerializeToString()})
    assert tuple(world.store.current.refused_addresses.texts()) == ("n1/10.0.0.2",)
    assert world.sent[-1].unusable == ("n1/10.0.0.2",)
    briefed: list[Any] = []
    world.mesh.brief(briefed.append)
    assert briefed[-1].unusable == ("n1/10.0.0.2",)
    assert world.accept(ADDRESS, {"u2": pod("u2", b"\x0a\0\0\x02")}) == {}
    assert world.sent[-1].unusable == () and not tuple(world.store.current.refused_addresses.texts())


@pytest.mark.parametrize("raw", [b"noise", pod("u1", b"\x01")])
def test_what_cannot_even_be_read_may_have_any_address_but_where_its_version_before_counts(
    raw: bytes,
) -> None:
    world = World()
    world.accept(ADDRESS, {"u1": raw})
    assert world.sent[-1].unusable == ("*",) and world.waited
    world.accept(ADDRESS, {}, ("u1",))
    assert world.sent[-1].unusable == ()
    world.accept(ADDRESS, {"u1": pod("u1")})
    world.accept(ADDRESS, {"u1": raw})
    assert not tuple(world.store.current.refused_addresses.texts())


def test_a_resource_under_anothers_name_is_refused() -> None:
    world = World()
    refused = world.accept(ADDRESS, {"u1": pod("somebody-else")})
    assert "somebody-else" in refused["u1"]
    assert [(told.updates, told.unusable) for told in world.sent] == [((), ("/10.0.0.1",))]


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


def test_a_refused_address_is_listed_until_it_can_be_used() -> None:
    world = World()
    world.accept(ADDRESS, {"u1": pod("u1", b"\x01")})
    assert list(world.mesh.refused(ADDRESS)) == ["u1"]
    world.accept(ADDRESS, {"u1": pod("u1")})
    assert world.mesh.refused(ADDRESS) == {}


# -- many at once


class Slow(World):
    """By its clock every step is a slice."""

    def __init__(self) -> None:
        super().__init__()
        ticks = count()
        self.mesh = MeshState(self.store, self.sent.append, self._applied, lambda: next(ticks) * SLICE_S)


def many(number: int) -> dict[str, bytes]:
    return {f"u{n}": pod(f"u{n}", bytes([10, 1, n >> 8, n & 255])) for n in range(number)}


def test_a_large_response_goes_to_workers_in_parts_of_one_revision() -> None:
    world = World()
    world.accept(ADDRESS, {"gone": pod("gone")})
    world.sent.clear()
    updates = many(2 * PART + 1)
    world.accept(ADDRESS, updates, ("gone",))
    assert [len(message.updates) for message in world.sent] == [PART, PART, 1]
    assert [message.is_last for message in world.sent] == [False, False, True]
    assert {message.revision for message in world.sent} == {2} and world.sent[-1].removed == ["gone"]
    assert dict(pair for message in world.sent for pair in message.updates) == updates
    brief: list[Any] = []
    world.mesh.brief(brief.append)
    assert [(m.type_url, len(m.updates), m.full, m.is_last) for m in brief] == [
        (AUTHORIZATION, 0, True, True),
        (ADDRESS, PART, True, False),
        (ADDRESS, PART, True, False),
        (ADDRESS, 1, True, True),
    ]


def test_others_are_served_while_a_large_response_is_taken_and_see_none_or_all_of_it() -> None:
    async def scene() -> None:
        world = Slow()
        seen: list[tuple[int, int, int, int]] = []
        taking = asyncio.ensure_future(world.mesh.accept(ADDRESS, many(20 * PACE), ()))
        while not taking.done():
            brief: list[Any] = []
            world.mesh.brief(brief.append)
            known = sum(len(message.updates) for message in brief)
            seen.append((len(world.store.current.workloads), known, world.mesh.revision, len(world.sent)))
            await asyncio.sleep(0)
        await taking
        assert len(seen) > 20 and "at each step somebody else had a turn"
        assert set(seen[:-1]) <= {(0, 0, 0, 0), (20 * PACE, 0, 0, 0)}, "nor is a worker told of half of it"
        assert len(world.store.current.workloads) == 20 * PACE and world.waited == [1]

    asyncio.run(scene())


def test_a_second_response_waits_for_the_first() -> None:
    async def scene() -> None:
        world = Slow()
        first, second = many(3 * PACE), {"u0": pod("u0", b"\x0a\2\0\0")}
        await asyncio.gather(
            world.mesh.accept(ADDRESS, first, ()), world.mesh.accept(ADDRESS, second, ("u1",))
        )
        workloads = world.store.current.workloads
        assert len(workloads) == 3 * PACE - 1 and str(workloads["u0"].addresses[0]) == "10.2.0.0"
        assert world.waited == [1, 2]

    asyncio.run(scene())
