"""How soon the control plane is asked again, by how it failed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import grpc
import grpc.aio
import pytest

from agent.rpc.enrolment_client import EnrolmentClient
from agent.rpc.manifests_client import ManifestsClient
from agent.rpc.retry import AWAY, SAYS_NO, Retry, says_no
from tests.support.clock import FakeClock, Sleeps
from tests.support.xds import PATIENCE_S, FakeControlPlane, MeshCA

LATE_S = 3.0
"""A policy that is written while an agent reconnects is in force on its node within this time."""
DIAL_AND_PUSH_S = 0.5

Code = grpc.StatusCode


def error(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def test_whoever_waits_for_one_that_was_away_is_there_soon_after_it() -> None:
    assert AWAY.longest_s + DIAL_AND_PUSH_S < LATE_S
    rng = Random(1)
    for failures in (1, 10, 10**6):
        assert AWAY.delay_s(failures, rng) <= AWAY.longest_s


def test_one_that_says_no_is_asked_less_often() -> None:
    retry = Retry(Random(1))
    delays = [retry.delay_s(is_no=True) for _ in range(30)]
    assert min(delays[10:]) > AWAY.longest_s and max(delays) <= SAYS_NO.longest_s


def test_a_no_of_long_ago_does_not_delay_the_return_of_one_that_was_away() -> None:
    retry = Retry(Random(1))
    for _ in range(20):
        retry.delay_s(is_no=True)
    assert retry.delay_s(is_no=False) <= AWAY.first_s * (1 + AWAY.jitter)
    for _ in range(20):
        retry.delay_s(is_no=False)
    assert retry.delay_s(is_no=True) <= SAYS_NO.first_s * (1 + SAYS_NO.jitter), "and the other way round"


def test_after_a_success_the_next_failure_is_a_first_one() -> None:
    retry = Retry(Random(1))
    for _ in range(20):
        retry.delay_s(is_no=True)
    retry.succeeded()
    assert retry.delay_s(is_no=True) <= SAYS_NO.first_s * (1 + SAYS_NO.jitter)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (Code.UNAVAILABLE, "Connection refused", False),
        (Code.UNAVAILABLE, "the control plane is stopping", False),
        (Code.UNAVAILABLE, "nothing is served yet: the manifests were not read yet", False),
        (Code.UNAVAILABLE, "Handshake read failed (Endpoint closing)", False),
        (Code.CANCELLED, "", False),
        (Code.UNAVAILABLE, "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED", True),
        (Code.UNAVAILABLE, "Hostname Verification Check failed.", True),
        (Code.UNAUTHENTICATED, "who are you?", True),
        (Code.PERMISSION_DENIED, "", True),
        (Code.UNIMPLEMENTED, "", True),
        (Code.RESOURCE_EXHAUSTED, "request rate limit exceeded", True),
        (Code.UNKNOWN, "", True),
    ],
)
def test_what_is_a_no(code: grpc.StatusCode, details: str, expected: bool) -> None:
    assert says_no(error(code, details)) is expected


@pytest.mark.parametrize("kind", ["reports", "findings"])
@pytest.mark.parametrize(
    ("changes", "is_no"), [({"address": "127.0.0.1:1"}, False), ({}, True)], ids=["away", "no such service"]
)
def test_the_other_calls_wait_by_the_same_rule(
    tmp_path: Path, kind: str, changes: dict[str, object], is_no: bool
) -> None:
    async def body() -> list[float]:
        async with FakeControlPlane(MeshCA()) as plane:
            sleeps = Sleeps(FakeClock(), limit=9)
            endpoint = plane.endpoint(tmp_path, **changes)
            client: EnrolmentClient | ManifestsClient
            if kind == "reports":
                client = EnrolmentClient(endpoint, "n1", Random(1), sleep=sleeps)
                client.report([("demo", "web")])
            else:
                client = ManifestsClient(endpoint, "n1", Random(1), sleep=sleeps)
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
                task = tasks.create_task(client.run())
                await sleeps.exhausted.wait()
                task.cancel()
        return sleeps.delays

    delays = asyncio.run(body())
    assert (max(delays) > AWAY.longest_s) is is_no
    assert delays[0] <= AWAY.first_s * (1 + AWAY.jitter)
