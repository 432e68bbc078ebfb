"""Turns for what is large: so many at a time, in order, and nobody holds up the others for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from agent.controlplane.serve import xds_session
from agent.controlplane.serve.turns import Turn, Turns
from agent.controlplane.serve.xds_session import Session
from agent.controlplane.translate.resources import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Policy,
    Snapshot,
    make_resource,
)
from agent.pb import authorization_pb2 as authz
from agent.pb import workload_pb2, xds_pb2


def run(body: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(body())


def here(*turns: Turn) -> list[bool]:
    return [turn.is_here for turn in turns]


def test_so_many_at_a_time_and_the_others_in_order() -> None:
    async def body() -> None:
        turns = Turns(at_once=2, longest_s=60)
        wakes = [asyncio.Event() for _ in range(4)]
        first, second, third, fourth = places = [turns.place(wake) for wake in wakes]
        for place in (*places, third):
            place.ask()
        assert here(*places) == [True, True, False, False]
        assert [wake.is_set() for wake in wakes] == [True, True, False, False]
        second.end()
        second.end()
        assert here(*places) == [True, False, True, False], "one for one"
        with fourth:
            pass
        first.end()
        assert here(*places) == [False, False, True, False], "it has left"
        first.ask()
        assert here(*places) == [True, False, True, False]
        with third:
            second.ask()
        assert here(*places) == [True, True, False, False], "who leaves gives its turn back"

    run(body)


def test_a_turn_ends_after_a_while_though_its_client_does_not_read() -> None:
    async def body() -> None:
        turns = Turns(at_once=1, longest_s=0.01)
        wake = asyncio.Event()
        slow, other = turns.place(asyncio.Event()), turns.place(wake)
        slow.ask()
        other.ask()
        async with asyncio.timeout(10):
            await wake.wait()
        assert here(slow, other) == [False, True]

    run(body)


def mesh(*names: str, policy: str = "deny") -> Snapshot:
    message = authz.Authorization(name=policy, namespace="demo")
    addresses = {
        name: make_resource(name, workload_pb2.Address(workload=workload_pb2.Workload(uid=name)))
        for name in names
    }
    policies = {f"demo/{policy}": Policy(make_resource(f"demo/{policy}", message), message)}
    return Snapshot(addresses, policies)


class Client:
    """Acknowledges everything at once."""

    def __init__(self) -> None:
        self.session = Session()
        for type_url in (AUTHORIZATION_TYPE, ADDRESS_TYPE):
            self.session.receive(xds_pb2.DeltaDiscoveryRequest(type_url=type_url))

    def step(self, snapshot: Snapshot, *, has_turn: bool) -> list[tuple[str, list[str], list[str]]]:
        """What came: of which type, what, and what of it is gone."""
        came = []
        while responses := self.session.step(snapshot, {}, has_turn=has_turn):
            for response in responses:
                names = [entry.name for entry in response.resources]
                came.append((response.type_url, names, list(response.removed_resources)))
                self.session.receive(
                    xds_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                )
        return came


@pytest.fixture(autouse=True)
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xds_session, "LARGE_BYTES", 1)


def test_without_a_turn_what_is_large_waits_and_what_comes_after_it() -> None:
    client = Client()
    assert client.step(mesh("web"), has_turn=False) == [(AUTHORIZATION_TYPE, ["demo/deny"], [])]
    assert client.session.waits_for_turn
    assert client.step(mesh("web"), has_turn=True) == [(ADDRESS_TYPE, ["web"], [])]
    assert not client.session.waits_for_turn
    # Another policy in place of the one that the addresses of before may list.
    after = mesh("web", "db", policy="allow")
    assert client.step(after, has_turn=False) == [(AUTHORIZATION_TYPE, ["demo/allow"], [])]
    assert client.session.waits_for_turn
    assert client.step(after, has_turn=True) == [
        (ADDRESS_TYPE, ["db"], []),
        (AUTHORIZATION_TYPE, [], ["demo/deny"]),
    ]
    assert client.step(after, has_turn=False) == []


def test_what_is_small_waits_for_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    client.step(mesh("web", "db"), has_turn=True)
    assert client.step(mesh("web"), has_turn=False) == [(ADDRESS_TYPE, [], ["db"])], "nothing but a name"
    monkeypatch.setattr(xds_session, "LARGE_BYTES", 1000)
    assert client.step(mesh("web", "x"), has_turn=False) == [(ADDRESS_TYPE, ["x"], [])]
    assert not client.session.waits_for_turn


def test_those_who_hold_the_same_share_what_they_hold() -> None:
    """Thousands of names for each of hundreds of clients."""
    one, other = Client(), Client()
    other.session = Session()
    held = {"web": mesh("web").addresses["web"].version, "gone": "1"}
    for type_url, versions in ((AUTHORIZATION_TYPE, {}), (ADDRESS_TYPE, held)):
        other.session.receive(
            xds_pb2.DeltaDiscoveryRequest(type_url=type_url, initial_resource_versions=versions)
        )
    snapshot = mesh("web", "db")
    for client in (one, other):
        client.step(snapshot, has_turn=True)
        assert client.session._types[ADDRESS_TYPE].held is snapshot.versions
    after = mesh("db")
    assert one.step(after, has_turn=True) == [(ADDRESS_TYPE, [], ["web"])]
    assert snapshot.versions.keys() == {"web", "db"}, "what others hold is not changed"
