"""The crew with real processes: what becomes of workers that fail, hang or go, and what their listeners notice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.model.listener import Listener
from agent.net.sockets import open_listener
from agent.supervisor.crew import Crew
from redirect.spawn import ChildFailed


def make_listener(_: Listener) -> object:
    return open_listener(None, 0, transparent=False, reuse_port=True, address="127.0.0.1")


def test_a_worker_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def play() -> None:
        crew = Crew(
            tmp_path,
            2,
            {"node": "n1"},
            ("/run/netns/nobody", None),
            make_listener,
            lambda link: None,
            lambda link, stats: None,
            1.0,
        )
        try:
            with pytest.raises(ChildFailed) as caught:
                await crew.muster()
        finally:
            crew.close()
        assert str(caught.value).startswith("worker 0 did not start: [Errno 2]")
        assert "/run/netns/nobody" in str(caught.value) and "\n" not in str(caught.value)
        assert "Traceback" in caught.value.failure.details

    asyncio.run(play())
    assert capfd.readouterr().err == ""
