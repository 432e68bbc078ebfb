"""What nobody expected, in the two clients beside discovery, ends neither of them: it is told, and tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from agent.rpc.endpoint import Endpoint
from agent.rpc.enrolment_client import EnrolmentClient
from agent.rpc.manifests_client import ManifestsClient


class Broken(Endpoint):
    """Raises what no call does."""

    def open(self) -> None:  # type: ignore[override]
        raise KeyError("nobody expected this")


class Enough(Exception):
    pass


def twice() -> Callable[[float], Awaitable[None]]:
    """A sleep that ends the test the second time: it was tried again."""
    waits = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 2:
            raise Enough

    return sleep


def broken(tmp_path: Path) -> Broken:
    return Broken(address="127.0.0.1:1", roots="", token_file=None)


def test_an_enrolment_report_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = EnrolmentClient(broken(tmp_path), "node-a", Random(1), twice())
    client.report([("demo", "web")])
    with pytest.raises(Enough):
        asyncio.run(client.run())
    assert client.error.startswith("a defect in ztun: KeyError")
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [
        True,
        False,
    ], "with its place the first time"


def test_what_is_wrong_with_manifests_is_asked_again(tmp_path: Path) -> None:
    client = ManifestsClient(broken(tmp_path), "node-a", Random(1), sleep=twice())
    with pytest.raises(Enough):
        asyncio.run(client.run())
    assert "not known now: a defect in ztun: KeyError" in client.defect
