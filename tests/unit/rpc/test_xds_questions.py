"""What the discovery client asks by name, against a real gRPC server: answered once the answer is applied."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.rpc.xds_client import ANEW_S
from agent.wire import xds_delta
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION
from tests.support.xds import AdsStream, FakeControlPlane, MeshCA
from tests.support.xds_client import Rig

POD, NOBODY = "/10.0.0.7", "/10.0.0.99"


def asking(tmp_path: Path, body: Callable[[FakeControlPlane, Rig, AdsStream], Awaitable[None]]) -> None:
    """With a client on demand, whose first stream has answered with nothing."""

    async def run() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path), is_on_demand=True)
            async with rig.running():
                stream = await plane.stream()
                await begin(stream)
                await body(plane, rig, stream)

    asyncio.run(run())


async def begin(stream: AdsStream) -> None:
    await stream.opening()
    for type_url in (ADDRESS, AUTHORIZATION):
        await stream.send(type_url, nonce=type_url)
        await stream.request()


async def asked(stream: AdsStream) -> list[str]:
    return list((await stream.request()).resource_names_subscribe)


def test_the_answer_is_applied_and_acknowledged_before_anybody_hears(tmp_path: Path) -> None:
    async def body(plane: FakeControlPlane, rig: Rig, stream: AdsStream) -> None:
        rig.client.ask([POD, NOBODY, POD])
        assert await asked(stream) == [POD] and await asked(stream) == [NOBODY]
        rig.at_answers = lambda: dict(rig.applied.resources)
        await stream.send(ADDRESS, [(POD, "1", b"a")], removed=[NOBODY], nonce="n")
        assert (await stream.request()).response_nonce == "n"
        assert await rig.answered() == ([POD, NOBODY], {POD: b"a"})

    asking(tmp_path, body)


def test_what_a_stream_has_answered_is_asked_on_another_one_but_not_at_any_rate(tmp_path: Path) -> None:
    """A server is silent about a name that a stream has asked before: a pod born since would never be found."""

    async def body(plane: FakeControlPlane, rig: Rig, stream: AdsStream) -> None:
        rig.client.ask([POD])
        await asked(stream)
        await stream.send(ADDRESS, [("kept", "1", b"k")], removed=[POD], nonce="n")
        await rig.answered()

        rig.client.ask([POD])
        second = await plane.stream()
        opening = (await second.opening())[ADDRESS]
        assert list(opening.resource_names_subscribe) == ["*", POD]
        assert dict(opening.initial_resource_versions) == {"kept": "1", POD: ""}
        await second.send(ADDRESS, removed=[POD], nonce="n")
        await rig.answered()

        rig.client.ask([POD])
        assert (await rig.answered())[0] == [POD], "what was said last, at once"
        rig.clock.now += ANEW_S
        rig.client.ask([POD])
        await (await plane.stream()).opening()
        assert rig.sleeps.delays == [], "none of these was a failure"

    asking(tmp_path, body)


def test_a_question_outlives_the_stream_it_was_asked_on(tmp_path: Path) -> None:
    async def body(plane: FakeControlPlane, rig: Rig, stream: AdsStream) -> None:
        rig.client.ask([POD])
        await asked(stream)
        stream.end()
        second = await plane.stream()
        assert list((await second.opening())[ADDRESS].resource_names_subscribe) == ["*", POD]
        await second.send(ADDRESS, [(POD, "1", b"a")], nonce="n")
        assert (await rig.answered())[0] == [POD]

    asking(tmp_path, body)


@pytest.mark.parametrize("limit", ["MAX_QUESTIONS", "MAX_ASKED"])
def test_a_question_that_found_no_room_is_not_taken_for_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Who asks many names of nobody must not have others hear that theirs is nowhere: they would go on without TLS."""

    async def body(plane: FakeControlPlane, rig: Rig, stream: AdsStream) -> None:
        rig.client.ask([NOBODY])
        await asked(stream)
        await stream.send(ADDRESS, removed=[NOBODY], nonce="n")
        await rig.answered()
        rig.client.ask([NOBODY])
        second = await plane.stream()
        await begin(second)  # no other one for ANEW_S

        monkeypatch.setattr(xds_delta, limit, 2)
        crowd = ["/10.0.1.1", "/10.0.1.2"]
        names = [POD, *crowd] if limit == "MAX_QUESTIONS" else [*crowd, POD]
        for name in names:
            rig.client.ask([name])
        rig.client.ask([POD])
        await second.send(ADDRESS, removed=[crowd[0], crowd[1]], nonce="n")
        assert POD not in (await rig.answered())[0], "nobody has said what it is"

    asking(tmp_path, body)
