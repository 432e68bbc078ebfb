"""Manifests that take long to read: agents are served all the while, and stopping waits until nothing is written."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.controlplane.read import batch
from agent.controlplane.read.pieces import Piece, Pieces
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE
from agent.model.steps import Steps
from tests.support.controlplane import LIMIT_S, NAMESPACE, deny, pod, running, versions

WEB = pod("web-0", "node-a", "10.10.0.5")
UID, MORE = "Kubernetes//Pod/demo/web-0", "Kubernetes//Pod/demo/web-1"


class Reading:
    """Of a file named big.yaml: has it begun, may it end?"""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.wait, LIMIT_S)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    made, read_in_pieces = Reading(), batch.read_in_pieces

    def slowly(name: str, text: str, known: Mapping[bytes, Piece]) -> Steps[Pieces]:
        if name == "big.yaml":
            made.has_begun.set()
            while not made.may_end.wait(0.001):
                yield
        return (yield from read_in_pieces(name, text, known))

    monkeypatch.setattr(batch, "read_in_pieces", slowly)
    yield made
    made.may_end.set()


def test_agents_are_served_while_a_large_file_is_read(tmp_path: Path, reading: Reading) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane, plane.client() as client:
            await client.start()
            plane.write("big.yaml", pod("web-1", "node-b", "10.10.0.6"))
            await reading.begun()
            async with plane.client("node-b") as another:
                addresses, _ = await another.start()
                assert list(addresses) == [UID], "the state of before"
            reading.may_end.set()
            assert list(versions(await client.take(ADDRESS_TYPE))) == [MORE]

    asyncio.run(scenario())


def test_pods_that_are_enrolled_while_a_large_file_is_read_stay_enrolled(
    tmp_path: Path, reading: Reading
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane, plane.client() as client:
            await client.start()
            plane.write("big.yaml", pod("web-1", "node-b", "10.10.0.6"))
            await reading.begun()
            await plane.report("node-a", "node-a", "demo/web-0")
            assert list(versions(await client.take(ADDRESS_TYPE))) == [UID], "reached by HBONE now"
            reading.may_end.set()
            response = await client.take(ADDRESS_TYPE)
            assert list(versions(response)) == [MORE], "and nothing takes that back"

    asyncio.run(scenario())


def test_a_denial_overtakes_and_what_opens_does_not(tmp_path: Path, reading: Reading) -> None:
    """Also one in a file with other things, which have their turn."""
    manifests = {"web.yaml": NAMESPACE + WEB, "old.yaml": deny("old", "app: web")}

    async def scenario() -> None:
        async with running(tmp_path, manifests) as plane, plane.client() as client:
            await client.start()
            plane.write("big.yaml", pod("web-1", "node-b", "10.10.0.6"))
            await reading.begun()
            (plane.manifests / "old.yaml").unlink()
            plane.write("allow.yaml", deny("allow", action="ALLOW"))
            plane.write("new.yaml", deny("new", "app: web") + pod("web-2", "node-b", "10.10.0.7"))
            response = await client.take(AUTHORIZATION_TYPE)
            assert (list(versions(response)), list(response.removed_resources)) == (["demo/new"], [])
            response = await client.take(ADDRESS_TYPE)
            assert list(versions(response)) == [UID], "lists both policies"
            reading.may_end.set()
            added: set[str] = set()
            removed: list[str] = []
            while not {"demo/allow", MORE, "Kubernetes//Pod/demo/web-2"} <= added or not removed:
                response = await client.receive()
                await client.ack(response)
                added |= versions(response).keys()
                removed += response.removed_resources
            assert removed == ["demo/old"] and "demo/new" not in added

    asyncio.run(scenario())


def test_a_stop_meanwhile_waits_for_no_more_than_a_piece(tmp_path: Path, reading: Reading) -> None:
    """And nothing is written afterwards: the state directory belongs to the next control plane then."""

    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane:
            plane.write("big.yaml", pod("web-1", "node-b", "10.10.0.6"))
            await reading.begun()
        assert not plane.plane.is_at_work
        assert list(json.loads((plane.state / "manifests.json").read_text())["files"]) == ["web.yaml"]

    asyncio.run(scenario())
