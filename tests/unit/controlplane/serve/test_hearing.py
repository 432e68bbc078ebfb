"""A control plane that has lost what agents had reported: what peers know stays, until the agents were heard."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.cli.plane_status import answer
from agent.controlplane import app
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE
from agent.pb import workload_pb2 as wds
from agent.pb import xds_pb2
from tests.support.controlplane import NAMESPACE, Client, Plane, deny, pod, running, versions
from tests.support.enrolment import until

MANIFESTS = {"all.yaml": NAMESPACE + pod("a", "node-a", "10.10.0.5") + pod("b", "node-b", "10.10.0.6")}
A, B = "Kubernetes//Pod/demo/a", "Kubernetes//Pod/demo/b"


def protocols(response: xds_pb2.DeltaDiscoveryResponse) -> dict[str, int]:
    return {
        r.name: wds.Address.FromString(r.resource.value).workload.tunnel_protocol for r in response.resources
    }


async def known_before(tmp_path: Path) -> dict[str, str]:
    """What a peer holds of a control plane to which both nodes have reported; then its memory is lost."""
    async with running(tmp_path, MANIFESTS) as plane:
        await plane.report("node-a", "node-a", "demo/a")
        await plane.report("node-b", "node-b", "demo/b")
        async with plane.client() as client:
            held, _ = await client.start()
    (tmp_path / "state" / "enrolled.json").unlink()
    return held


def unheard(plane: Plane) -> list[str]:
    return json.loads((plane.state / "status.json").read_text())["unheard"]


async def told_nothing(client: Client, held: dict[str, str]) -> None:
    """Whoever holds so much is not told that anything of it is otherwise."""
    await client.subscribe(ADDRESS_TYPE, held)
    await client.subscribe(AUTHORIZATION_TYPE)
    await client.take(AUTHORIZATION_TYPE)
    response = await client.take(ADDRESS_TYPE)
    assert (protocols(response), list(response.removed_resources)) == ({}, [])


def test_nobody_who_knows_a_pod_is_told_that_it_takes_plaintext_before_its_agent_is_heard(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        held = await known_before(tmp_path)
        async with running(tmp_path, MANIFESTS) as plane, plane.client() as client:
            await told_nothing(client, held)
            await until(lambda: unheard(plane) == ["node-a", "node-b"])
            await plane.report("node-a", "node-a")  # captures nothing any more
            assert protocols(await client.take(ADDRESS_TYPE)) == {A: wds.NONE}
            await until(lambda: unheard(plane) == ["node-b"])
            assert "nodes node-b: no agent" in str(answer(plane.state)["reasons"])
            plane.write("deny.yaml", deny("d"))
            assert list(versions(await client.take(AUTHORIZATION_TYPE))) == ["demo/d"], (
                "policy waits for nobody"
            )
            await plane.report("node-b", "node-b", "demo/b")
            plane.write("more.yaml", pod("c", "node-a", "10.10.0.7"))
            assert list(versions(await client.take(ADDRESS_TYPE))) == ["Kubernetes//Pod/demo/c"], (
                "b stays as it was"
            )
            await until(lambda: unheard(plane) == [])

    asyncio.run(scenario())


def test_what_one_node_has_told_since_does_not_speak_for_the_others(tmp_path: Path) -> None:
    """The control plane that had lost its memory ends before the second agent has reported to it."""

    async def scenario() -> None:
        held = await known_before(tmp_path)
        async with running(tmp_path, MANIFESTS) as plane:
            await plane.report("node-a", "node-a", "demo/a")
        async with running(tmp_path, MANIFESTS) as plane, plane.client() as client:
            await told_nothing(client, held)
            await plane.report("node-b", "node-b")  # captures nothing any more
            assert protocols(await client.take(ADDRESS_TYPE)) == {B: wds.NONE}

    asyncio.run(scenario())


def test_an_agent_that_never_comes_is_not_waited_for_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        held = await known_before(tmp_path)
        monkeypatch.setattr(app, "PATIENCE_S", 0.0)
        async with running(tmp_path, MANIFESTS) as plane, plane.client() as client:
            await client.subscribe(ADDRESS_TYPE, held)
            await client.subscribe(AUTHORIZATION_TYPE)
            await client.take(AUTHORIZATION_TYPE)
            told = protocols(await client.take(ADDRESS_TYPE))
            while told.keys() < {A, B}:
                told |= protocols(await client.take(ADDRESS_TYPE))
            assert told == {A: wds.NONE, B: wds.NONE}
            await until(lambda: unheard(plane) == ["node-a", "node-b"])

    asyncio.run(scenario())


def test_who_knows_nothing_is_told_everything_at_once(tmp_path: Path) -> None:
    """The agents of a new mesh report when they have it."""

    async def scenario() -> None:
        async with running(tmp_path, MANIFESTS) as plane, plane.client() as client:
            addresses, _ = await client.start()
            assert addresses.keys() == {A, B} and unheard(plane) == []

    asyncio.run(scenario())
