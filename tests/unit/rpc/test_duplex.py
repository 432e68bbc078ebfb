"""A stream's end is reported with the server's own status, also when our writes meet it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import grpc
import pytest

from agent.rpc.duplex import Duplex
from agent.rpc.xds_client import METHOD
from tests.support.xds import PATIENCE_S, FakeControlPlane, MeshCA


async def status_of_one_stream(plane: FakeControlPlane, tmp_path: Path) -> tuple[grpc.StatusCode, str]:
    endpoint = plane.endpoint(tmp_path, token="stolen")
    async with endpoint.open() as channel:
        stream = Duplex(channel, METHOD, endpoint.metadata())
        try:
            stream.send(b"")
            stream.send(b"")
            await stream.receive()
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        finally:
            stream.close()
    raise AssertionError("the server let it in")


def test_a_refusal_is_never_covered_by_a_failed_write(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane, asyncio.timeout(PATIENCE_S):
            seen = Counter([await status_of_one_stream(plane, tmp_path) for _ in range(60)])
            assert seen == {(grpc.StatusCode.UNAUTHENTICATED, "authentication failure"): 60}

    asyncio.run(body())


def test_an_orderly_end_is_none_and_stays(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane, asyncio.timeout(PATIENCE_S):
            endpoint = plane.endpoint(tmp_path)
            async with endpoint.open() as channel:
                stream = Duplex(channel, METHOD, endpoint.metadata())
                stream.send(b"")
                server = await plane.stream()
                await server.request()
                await server.send("t", nonce="x")
                assert b"x" in (await stream.receive() or b"")
                server.end()
                assert await stream.receive() is None
                stream.send(b"")
                assert await stream.receive() is None
                stream.close()

    asyncio.run(body())


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL], ids=lambda c: c.name)
def test_a_broken_stream_raises_what_the_server_said(tmp_path: Path, code: grpc.StatusCode) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane, asyncio.timeout(PATIENCE_S):
            endpoint = plane.endpoint(tmp_path)
            async with endpoint.open() as channel:
                stream = Duplex(channel, METHOD, endpoint.metadata())
                (await plane.stream()).end(code, "not ready")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stream.receive()
                assert (caught.value.code(), caught.value.details()) == (code, "not ready")
                stream.close()

    asyncio.run(body())
