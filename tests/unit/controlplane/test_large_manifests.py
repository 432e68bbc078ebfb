"""Manifests that take long to read: agents are served all the while, and stopping waits until nothing is written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.controlplane.read import directory
from agent.controlplane.read.manifests import Manifest
from agent.controlplane.translate.resources import ADDRESS_TYPE
from tests.support.controlplane import LIMIT_S, NAMESPACE, pod, running, versions

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
    made, parse = Reading(), directory.parse

    def slowly(name: str, text: str) -> Manifest:
        if name == "big.yaml":
            made.has_begun.set()
            assert made.may_end.wait(LIMIT_S)
        return parse(name, text)

    monkeypatch.setattr(directory, "parse", slowly)
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


def test_a_stop_meanwhile_waits_for_the_reader(tmp_path: Path, reading: Reading) -> None:
    """It writes to the state directory, which belongs to the next control plane as soon as this one has ended."""

    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane:
            plane.write("big.yaml", pod("web-1", "node-b", "10.10.0.6"))
            await reading.begun()
            closing = asyncio.create_task(plane.plane.close())
            done, _ = await asyncio.wait([closing], timeout=0.2)
            assert not done
            reading.may_end.set()
            await closing
            assert "web-1" in (plane.state / "manifests.json").read_text()

    asyncio.run(scenario())
