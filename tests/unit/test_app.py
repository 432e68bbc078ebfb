"""That parts of the agent that must hear of each other do; what they do then is their own tests' to show."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.app import Agent
from agent.config import build
from agent.identity.keeper import State
from agent.identity.signer import SigningError
from agent.model.identity import Identity

WEB = Identity("cluster.local", "apps", "web")


def test_a_discovery_stream_that_is_up_has_certificates_asked_for_at_once(tmp_path: Path) -> None:
    """The CA is where the control plane is: a pod that waits for one that was away must not wait for a back-off."""

    async def body() -> None:
        log: Any = SimpleNamespace(lost=0)
        unused: Any = None  # nothing is started
        agent = Agent(build({"node": "n1", "run_dir": str(tmp_path)}), log, unused, unused)
        agent.keeper.set_in_use([WEB])
        agent.keeper._failed(WEB, SigningError("the CA is away", is_transient=True))
        (held,) = agent.keeper.held()
        assert held.state is not State.AVAILABLE and held.failures == 1
        agent.xds._connected()
        (held,) = agent.keeper.held()
        assert held.failures == 0

    asyncio.run(body())
