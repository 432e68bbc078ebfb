"""Many real clients at one real control plane, which come, go and come back while its manifests change.

Each applies what it is sent in its own time. Whatever order that takes, none ever holds a resource as it never was, or
a workload whose policies it lacks; and in the end all hold what is served.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random

import pytest

from agent.controlplane.serve import xds_service, xds_session
from agent.controlplane.serve.publisher import State
from agent.controlplane.serve.turns import Turns
from agent.controlplane.translate.resources import Snapshot, make_resource
from agent.pb import workload_pb2
from agent.rpc.endpoint import Endpoint
from agent.rpc.xds_client import XdsClient
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, TYPES, Received, XdsDelta, make_node
from tests.support.controlplane import NAMESPACE, Plane, deny, pod, running

CLIENTS, CHANGES, PODS, POLICIES = 12, 12, 12, 4
PATIENCE_S = 60.0


class Served:
    """Every body of every name that was ever published, and what is now."""

    def __init__(self, plane: Plane) -> None:
        self._publisher = plane.plane._publisher
        self.ever: defaultdict[str, set[bytes]] = defaultdict(set)
        publish = self._publisher.publish

        def noted(state: State) -> bool:
            self._note(state)
            return publish(state)

        self._publisher.publish = noted  # type: ignore[method-assign]
        self._note(self._publisher.current())

    def _note(self, state: State) -> None:
        for bodies in bodies_of(state).values():
            for name, body in bodies.items():
                self.ever[name].add(body)

    @property
    def now(self) -> dict[str, dict[str, bytes]]:
        return bodies_of(self._publisher.current())


def bodies_of(state: State) -> dict[str, dict[str, bytes]]:
    snapshot = state.snapshot
    return {
        ADDRESS: {name: each.value for name, each in snapshot.addresses.items()},
        AUTHORIZATION: {name: each.resource.value for name, each in snapshot.policies.items()},
    }


class Node:
    """A client whose streams are cut now and then; what it has applied, and what was wrong at any moment."""

    def __init__(self, number: int, plane: Plane, served: Served) -> None:
        name = f"node-{number}"
        self._rng = Random(number)
        self._served = served
        self.held: dict[str, dict[str, bytes]] = {type_url: {} for type_url in TYPES}
        self.wrong: list[str] = []
        plane.token(name)
        self._endpoint = Endpoint(
            plane.plane.address,
            str(plane.state / "root.pem"),
            "istiod.istio-system.svc",
            plane.state / "tokens" / name,
        )
        self._protocol = XdsDelta(make_node(ip="10.0.0.1", pod=name, namespace="x", node_name=name))
        self.streams = 0

    async def run(self, lives: int) -> None:
        """Some streams that are cut short, as an agent's that is restarted, and a last one that stays."""
        for _ in range(lives):
            task = asyncio.create_task(self._client().run())
            await asyncio.sleep(self._rng.random() * 0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._client().run()

    def _client(self) -> XdsClient:
        self.streams += 1
        return XdsClient(
            self._endpoint, self._protocol, self._apply, clock=asyncio.get_running_loop().time, rng=self._rng
        )

    async def _apply(self, received: Received) -> Mapping[str, str]:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        held = self.held[received.type_url]
        for each in received.updates:
            if each.body not in self._served.ever[each.name]:
                self.wrong.append(f"{each.name} as it never was")
            held[each.name] = each.body
        for name in received.removed:
            held.pop(name, None)
        self._judge()
        return {}

    def _judge(self) -> None:
        policies = self.held[AUTHORIZATION]
        for name, body in self.held[ADDRESS].items():
            listed = workload_pb2.Address.FromString(body).workload.authorization_policies
            lacks = [each for each in listed if each not in policies]
            if lacks:
                self.wrong.append(f"{name} lists {lacks[0]}, which is not there")


def manifests(rng: Random) -> dict[str, str]:
    """Some of the pods, in one of two groups each, and some of the policies, about one of the groups each."""
    groups = [f"app: {group}" for group in ("web", "db")]
    pods = [
        pod(f"p{number}", f"node-{number % CLIENTS}", f"10.10.0.{number + 1}", labels=rng.choice(groups))
        for number in range(PODS)
        if rng.random() < 0.8
    ]
    policies = [
        deny(f"d{number}", rng.choice(groups), action=rng.choice(("DENY", "ALLOW")))
        for number in range(POLICIES)
        if rng.random() < 0.6
    ]
    return {"pods.yaml": NAMESPACE + "".join(pods), "policies.yaml": "".join(policies) or NAMESPACE}


async def until(condition: Callable[[], bool], why: Callable[[], str]) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - the state of many, none of which says so
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(why()) from None


@pytest.mark.parametrize("is_large", [False, True], ids=["all at once", "one after the other"])
def test_agents_that_come_and_go_under_changes_never_hold_what_was_not_served_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(xds_session, "LARGE_BYTES", 1)
        monkeypatch.setattr(xds_service, "Turns", partial(Turns, at_once=1))

    async def scenario() -> None:
        rng = Random(5)
        async with running(tmp_path, manifests(rng)) as plane:
            served = Served(plane)
            nodes = [Node(number, plane, served) for number in range(CLIENTS)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(node.run(lives=3)) for node in nodes]
                for _ in range(CHANGES):
                    for name, text in manifests(rng).items():
                        plane.write(name, text)
                    await asyncio.sleep(0.05)
                plane.write("last.yaml", pod("last", "node-0", "10.10.1.1"))
                await until(lambda: any("last" in name for name in served.now[ADDRESS]), lambda: "not read")
                await until(
                    lambda: all(node.held == served.now for node in nodes),
                    lambda: f"some hold something else: {[n.held == served.now for n in nodes]}",
                )
                for task in tasks:
                    task.cancel()
            assert not [wrong for node in nodes for wrong in node.wrong]
            assert sum(len(bodies) for bodies in served.ever.values()) > len(served.ever), "much has changed"

    asyncio.run(scenario())


def test_a_client_that_leaves_while_it_is_sent_much_gives_its_turn_back_and_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Turns] = []

    def turns() -> Turns:
        made.append(Turns(at_once=1, longest_s=3600))
        return made[0]

    monkeypatch.setattr(xds_service, "Turns", turns)
    # More than gRPC takes for a client that does not read.
    much = workload_pb2.Workload(uid="w", name="x" * (32 << 20))
    snapshot = Snapshot({"w": make_resource("w", workload_pb2.Address(workload=much))})

    async def scenario() -> None:
        async with running(tmp_path, {"ns.yaml": NAMESPACE + pod("web", "node-a", "10.10.0.5")}) as plane:
            plane.plane._publisher.publish(State(snapshot=snapshot))
            async with plane.client() as client:
                await client.subscribe(AUTHORIZATION)
                await client.subscribe(ADDRESS)
                await client.take(AUTHORIZATION)
                await until(lambda: not made[0]._free, lambda: "it is sent nothing")
            await until(lambda: bool(made[0]._free), lambda: "its turn is not over")
            await until(lambda: "stream closed" in caplog.text, lambda: "its stream is not over")

    caplog.set_level("INFO")
    asyncio.run(scenario())
    assert "Unexpected" not in caplog.text and "Traceback" not in caplog.text
