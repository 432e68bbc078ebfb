"""Resources on their way to the workers: decoded once, refused by name, acknowledged when all follow."""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import Any

import pytest

from agent import channel, mesh_state
from agent.defects import DEFECT, Defects
from agent.mesh_state import PART, MeshState
from agent.model.address import NetworkAddress, parse_ip
from agent.model.policy import Action, RefusedPolicy, Scope
from agent.model.refused_addresses import RefusedAddresses
from agent.model.steps import PACE, SLICE_S
from agent.pb.authorization_pb2 import Authorization
from agent.pb.workload_pb2 import Address
from agent.state.apply import Changes
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


@pytest.mark.parametrize("network", ["a/b", "/", "10.0.0.1/8", "*", "n1/10.0.0.9"])
def test_a_network_may_have_any_name(network: str) -> None:
    world = World()
    ports = Address()
    ports.workload.uid, ports.workload.network = "u2", network
    ports.workload.addresses.append(b"\x0a\0\0\x02")
    ports.workload.services["a/b"].ports.add(service_port=99999)
    ranged = Address()
    ranged.service.namespace, ranged.service.hostname = "apps", "web.test"
    ranged.service.addresses.add(network=network, address=b"\x0a\1\0\0", length=16)
    ranged.service.ports.add(service_port=99999)
    resources = {"u2": ports.SerializeToString(), "apps/web.test": ranged.SerializeToString()}
    assert world.accept(ADDRESS, resources).keys() == resources.keys()
    texts = (f"{network}/10.0.0.2", f"{network}/10.1.0.0/16")
    assert world.sent[-1].unusable == texts
    told = RefusedAddresses.of(texts)
    assert told == world.store.current.refused_addresses and tuple(told.texts()) == texts
    assert NetworkAddress(network, parse_ip("10.1.2.3")) in told


LATER_KIND = bytes([15 << 3 | 2, 4]) + b"some"


@pytest.mark.parametrize("raw", [b"noise", pod("u1", b"\x01"), b"", LATER_KIND])
def test_what_cannot_even_be_read_may_have_any_address_but_where_its_version_before_counts(
    raw: bytes,
) -> None:
    world = World()
    world.accept(ADDRESS, {"u1": raw})
    assert world.sent[-1].unusable == ("*",) and world.waited
    assert (
        "pods reach nothing that the mesh does not know" in world.mesh.problem
        and " u1 " in world.mesh.problem
    )
    world.accept(ADDRESS, {}, ("u1",))
    assert world.sent[-1].unusable == () and not world.mesh.problem
    world.accept(ADDRESS, {"u1": pod("u1")})
    world.accept(ADDRESS, {"u1": raw})
    assert not tuple(world.store.current.refused_addresses.texts())


def three(*ips: bytes) -> bytes:
    address = Address()
    address.workload.uid = "u1"
    address.workload.addresses.extend(ips)
    return bytes(address.SerializeToString())


def test_each_address_that_can_be_read_is_refused_but_those_of_the_version_before() -> None:
    said = {"u1": three(b"\x0a\0\0\1", b"\x0a\0\0\2", b"12345")}
    world = World()
    world.accept(ADDRESS, said)
    assert world.sent[-1].unusable == ("/10.0.0.1", "/10.0.0.2", "*")
    world = World()
    world.accept(ADDRESS, {"u1": pod("u1", b"\x0a\0\0\1")})
    world.accept(ADDRESS, said)
    assert world.sent[-1].unusable == ("/10.0.0.2",), "what the version before had stays as that one says"


def ranged(*said: tuple[bytes, int], good: bool) -> bytes:
    address = Address()
    address.service.namespace, address.service.hostname = "apps", "far.test"
    for raw, length in said:
        address.service.addresses.add(address=raw, length=length)
    address.service.ports.add(service_port=80 if good else 99999)
    return bytes(address.SerializeToString())


def test_ranges_of_a_refused_service_too() -> None:
    world, before = World(), (b"\x0a\0\0\0", 8)
    assert not world.accept(ADDRESS, {"apps/far.test": ranged(before, good=True)})
    inside = ((b"\x0a\1\0\0", 16), (b"\x0a\1\0\1", 32))
    beside = ((b"\x0b\1\0\0", 16), (b"\x0b\0\0\1", 32), (b"\x0a\0\0\0", 7), (bytes(16), 8))
    assert world.accept(ADDRESS, {"apps/far.test": ranged(before, *inside, *beside, good=False)})
    assert world.sent[-1].unusable == ("/11.0.0.1", "/10.0.0.0/7", "/11.1.0.0/16", "/::/8")


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


# -- a fault of ours


@pytest.fixture(autouse=True)
def nothing_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_state, "defects", Defects(mesh_state.log))


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


def test_what_raises_as_it_is_read_is_refused_alone_and_told_once_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = mesh_state.decode_address

    def broken(name: str, raw: bytes) -> Any:
        if name != "u1":
            raise KeyError(name)
        return read(name, raw)

    monkeypatch.setattr(mesh_state, "decode_address", broken)
    world = World()
    updates = {f"u{n}": pod(f"u{n}", bytes([10, 0, 0, n])) for n in (1, 2, 3)}
    refused = world.accept(ADDRESS, updates)
    assert refused == {"u2": f"{DEFECT}: KeyError: 'u2'", "u3": f"{DEFECT}: KeyError: 'u3'"}
    assert set(world.store.current.workloads) == {"u1"}
    assert world.sent[-1].unusable == ("/10.0.0.2", "/10.0.0.3")
    assert len(tracebacks(caplog)) == 1


def test_a_response_that_cannot_be_applied_is_refused_whole_and_what_was_before_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world, heard = World(), []

    def listener(snapshot: Snapshot, changes: Changes) -> None:
        heard.append(set(changes.workloads))
        if "u2" in changes.workloads and len(heard) < 4:
            raise RuntimeError("this one")

    world.store.subscribe(listener)
    world.accept(ADDRESS, {"u1": pod("u1")})
    said = {"u2": pod("u2", b"\x0a\0\0\2")}
    reason = f"{DEFECT}: RuntimeError: this one"
    assert world.accept(ADDRESS, said, ("u1",)) == {"u2": reason, "u1": reason}
    assert set(world.store.current.workloads) == {"u1"} and world.mesh.refused(ADDRESS) == {"u2": reason}
    told = world.sent[-1]
    assert (told.updates, told.removed, told.unusable) == ((), [], ("/10.0.0.2",)) and world.waited == [1, 2]
    assert len(tracebacks(caplog)) == 1
    heard.extend([set(), set()])
    assert world.accept(ADDRESS, said, ("u1",)) == {}, "it can be taken later, and everybody hears of it"
    assert set(world.store.current.workloads) == {"u2"} and heard[-1] == {"u1", "u2"}
    assert world.sent[-1].unusable == () and [name for name, _ in world.sent[-1].updates] == ["u2"]


def test_where_even_what_is_refused_cannot_be_read_it_may_be_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    read = mesh_state.readable_addresses

    def broken(raw: bytes) -> Any:
        if raw:
            raise KeyError("addresses")
        return read(raw)

    monkeypatch.setattr(mesh_state, "readable_addresses", broken)
    world = World()
    assert DEFECT in world.accept(ADDRESS, {"u1": pod("u1", b"\x01")})["u1"]
    assert world.sent[-1].unusable == ("*",)
    world.mesh.brief(world.sent.append)


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
