"""Two agents of one node, of which one serves: the other stands by, and serves when that one has ended.

The next agent (`--take-over-s`) asks the one before for its place as soon as it finds it. That lets go of the kernel
side, of ports, run directory and lock, while its workers serve on, and becomes itself anew (execve(2), same pid): a
fresh start that waits for the lock, and holds nothing else. Who has taken over and crashes, or does not come to serve
in time, leaves the lock to it; one that stands still is ended for it (`agent.taker`). Who stands by asks nobody: so two
agents never take a node from each other in turns.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from agent import config
from agent.config import Config
from agent.memory_order import as_before
from agent.taker import Taker
from redirect import child

log = logging.getLogger(__name__)

START = "agent.start"
CLIENT = "agent.admin.client"
"""Loaded by who asks alone."""
SOCKET, PAGE = "agent.sock", "/step-aside"
ASK_EVERY_S, ANSWER_S = 1.0, 5.0
REAP_EVERY_S = 1.0
AGAIN_S = 10.0
"""Who was heard and has not got the lock by then was late for it."""
TERMINATED = 128 + signal.SIGTERM


class Asks(Protocol):
    """As `agent.admin.client.ask`."""

    def __call__(
        self, path: Path, method: str, target: str, body: dict[str, Any], *, patience_s: float
    ) -> object: ...


class Place:
    """What an agent does while it waits for the one before it: ask for its place, until that is heard."""

    def __init__(
        self,
        settings: Config,
        ask: Asks | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._ask = ask
        self._clock = clock
        self._next_s = clock()
        self._is_asking = settings.take_over_s > 0
        self.is_given = False
        """Somebody steps aside, and stands by from then on."""

    @property
    def patience_s(self) -> float:
        return self._settings.start_patience_s

    @property
    def limit_s(self) -> float | None:
        """How long this agent may take to serve, once it has the place; None: nobody else would."""
        return self._settings.take_over_s if self.is_given else None

    def __call__(self) -> None:
        if not self._is_asking or self._clock() < self._next_s:
            return
        client = importlib.import_module(CLIENT)
        ask: Asks = self._ask or client.ask
        path = self._settings.directory / SOCKET
        body = {"pod": self._settings.pod_name, "take_over_s": self._settings.take_over_s}
        try:
            ask(path, "POST", PAGE, body, patience_s=ANSWER_S)
        except client.AgentRefused as error:
            log.warning("the agent that runs does not step aside (%s): it is waited for", error)
            self._is_asking = False
        except client.AgentAbsent as error:
            # It may only begin, or end.
            log.debug("not asked to step aside: %s", error)
            self._next_s = self._clock() + ASK_EVERY_S
        else:
            log.info("the agent that runs steps aside, and stands by")
            self.is_given = True
            self._next_s = self._clock() + AGAIN_S


class StandsBy:
    """What an agent does that stands by: `pids` are those of its workers, its children, which end when they end.

    `besides` is done as long as it waits.
    """

    patience_s = float("inf")
    limit_s = None

    def __init__(self, pids: Sequence[int], besides: Callable[[], object] = lambda: None) -> None:
        self._pids = set(pids)
        self._besides = besides

    def __call__(self) -> None:
        self._reap()
        self._besides()

    def _reap(self) -> None:
        for pid in tuple(self._pids):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._pids.discard(pid)

    async def see_off(self) -> None:
        """The same for those that are left when this agent serves again, until there are none."""
        while self._pids:
            self._reap()
            await asyncio.sleep(REAP_EVERY_S)


def step_aside(settings: Config, shown: Sequence[str], pids: Sequence[int], taker: Taker | None) -> NoReturn:
    """Become an agent that stands by, with the same options and under the same pid. Raises OSError."""
    arguments = ["--options", json.dumps(config.as_texts(settings)), "--shown", json.dumps(list(shown))]
    arguments += ["--notes", "[]", "--stands-by", json.dumps(list(pids))]
    arguments += ["--taker", taker.written] if taker is not None else []
    command = child.command(START, *arguments)
    as_before()
    os.execv(command[0], command)


def end_when_asked() -> None:
    """Also while this process waits for a lock: as the first one of a container it would not by default."""

    def end(_: int, __: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
