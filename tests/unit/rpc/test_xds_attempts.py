"""When a discovery client tries again, and what it says of a set-up that cannot work."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from agent.rpc.retry import AWAY, SAYS_NO
from agent.rpc.xds_client import Phase
from agent.wire.xds_delta import ADDRESS
from tests.support.xds import FakeControlPlane, MeshCA
from tests.support.xds_client import Rig


@pytest.mark.parametrize(
    ("code", "cap_s"),
    [
        (grpc.StatusCode.OK, AWAY.cap_s),
        (grpc.StatusCode.CANCELLED, AWAY.cap_s),
        (grpc.StatusCode.UNAVAILABLE, AWAY.cap_s),
        (grpc.StatusCode.UNKNOWN, SAYS_NO.cap_s),
        (grpc.StatusCode.UNAUTHENTICATED, SAYS_NO.cap_s),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, SAYS_NO.cap_s),
    ],
    ids=str,
)
def test_back_off_grows_however_the_stream_ends(tmp_path: Path, code: grpc.StatusCode, cap_s: float) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path), limit=9)
            async with rig.running():
                for attempt in range(9):
                    stream = await plane.stream()
                    if attempt % 2:
                        # One that answers and ends at once is not a good stream either.
                        await stream.send(ADDRESS, nonce="n")
                    stream.end(code, "not ready")
                await rig.sleeps.exhausted.wait()
            delays = rig.sleeps.delays
            for number, delay in enumerate(delays):
                nominal = min(0.1 * 2**number, cap_s)
                assert 0.5 * nominal <= delay <= 1.5 * nominal
            assert len({d / min(0.1 * 2**n, cap_s) for n, d in enumerate(delays)}) > 5, "there is jitter"

    asyncio.run(body())


def test_a_long_good_stream_starts_the_back_off_anew(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running():
                for _ in range(6):
                    (await plane.stream()).end(grpc.StatusCode.UNKNOWN, "not ready")
                stream = await plane.stream()
                await stream.opening()
                await stream.send(ADDRESS)
                await stream.request()
                rig.clock.now += 1800
                stream.end(grpc.StatusCode.UNAVAILABLE, "max connection age")
                await plane.stream()
                assert rig.sleeps.delays[5] > 1.5
                assert rig.sleeps.delays[6] <= 0.15
                assert rig.counted.reasons[-1] == "Error"

    asyncio.run(body())


def closed_port() -> str:
    return "127.0.0.1:1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token": "stolen"}, "refuses our token: check {dir}/token, its audience and cluster Kubernetes"),
        ({"token": ""}, "token {dir}/token is empty"),
        ({"token": "two words"}, "is not one line of plain characters"),
        ({"token_file": Path("/nonexistent/token")}, "token /nonexistent/token cannot be read: No such file"),
        (
            {"roots": "/nonexistent/root.pem"},
            "root certificate /nonexistent/root.pem cannot be read: No such file or directory; put it there",
        ),
        (
            {"roots": MeshCA().root_pem.decode()},
            "not signed by our root: check the root certificate given as text",
        ),
        ({"roots": "-----BEGIN CERTIFICATE-----\nrubbish"}, "holds no PEM certificate"),
        ({"server_name": "other.svc"}, "its certificate is not for other.svc: check the server name"),
        ({"server_name": ""}, "its certificate is not for 127.0.0.1"),
        ({"address": closed_port()}, "connection refused: is it running, is the port right?"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_wrong_set_up_is_said_in_one_line_and_retried_slowly(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path, **changes), limit=4)
            async with rig.running() as client:
                await rig.sleeps.exhausted.wait()
                status = client.status
                assert said.format(dir=tmp_path) in status.last_error
                assert "\n" not in status.last_error and "good-token" not in status.last_error
                assert status.phase is Phase.WAITING and status.failures == 4
                assert status.next_attempt == pytest.approx(rig.clock.now)
                assert rig.sleeps.delays[3] > rig.sleeps.delays[0]
                assert set(rig.counted.reasons) == {"ConnectionError"}

    asyncio.run(body())


def test_a_port_without_tls_is_recognised(tmp_path: Path) -> None:
    async def body() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        async with (
            FakeControlPlane(MeshCA()) as plane,
            await asyncio.start_server(answer, "127.0.0.1", 0) as plain,
        ):
            port = plain.sockets[0].getsockname()[1]
            rig = Rig(plane.endpoint(tmp_path, address=f"127.0.0.1:{port}"), limit=1)
            async with rig.running() as client:
                await rig.sleeps.exhausted.wait()
                assert "does not speak TLS there" in client.status.last_error

    asyncio.run(body())


def test_a_new_token_on_disk_is_used_at_the_next_attempt(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA(), token="second") as plane:
            endpoint = plane.endpoint(tmp_path, token="first")
            rig = Rig(endpoint, limit=1)
            async with rig.running():
                await rig.sleeps.exhausted.wait()
                assert "refuses our token" in rig.client.status.last_error
                (tmp_path / "token").write_text("second")
                rig.sleeps.released.set()
                assert (await plane.stream()).metadata["authorization"] == "Bearer second"

    asyncio.run(body())
