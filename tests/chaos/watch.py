"""Looks at what the agents say of themselves, all the while, from a thread for each node."""

from __future__ import annotations

import threading
import time

from agent.admin import client
from agent.admin.client import AgentAbsent, AgentRefused
from tests.chaos.verdict import Look
from tests.support.labmesh import World

EVERY_S = 0.25
ANSWER_S = 3.0


class Watch:
    """`taken` gives the looks since the last time, by node. Use it as a context."""

    def __init__(self, world: World) -> None:
        self._sockets = {node: world.mesh.run_dir(node) / "agent.sock" for node in world.lab.nodes}
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._looks: dict[str, list[Look]] = {node: [] for node in self._sockets}
        self.said: dict[str, str] = {}
        """The last words of each agent."""
        self._threads = [threading.Thread(target=self._run, args=(node,)) for node in self._sockets]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def taken(self) -> dict[str, list[Look]]:
        with self._lock:
            looks, self._looks = self._looks, {node: [] for node in self._sockets}
        return looks

    def are_ready_since(self, time_s: float) -> bool:
        """Whether the last look at each node began after that time and found it READY."""
        with self._lock:
            lasts = [looks[-1] if looks else None for looks in self._looks.values()]
        return all(last is not None and last.is_ready and last.asked_s >= time_s for last in lasts)

    def _run(self, node: str) -> None:
        while not self._is_over.wait(EVERY_S):
            asked_s = time.monotonic()
            is_ready, said = self._ask(node)
            with self._lock:
                self._looks[node].append(Look(asked_s, time.monotonic(), is_ready))
                self.said[node] = said

    def _ask(self, node: str) -> tuple[bool, str]:
        try:
            status = client.ask(self._sockets[node], "GET", "/status", patience_s=ANSWER_S)
        except (AgentAbsent, AgentRefused) as error:
            return False, str(error)
        return status["state"] == "READY", f"{status['state']}: {'; '.join(status['reasons'])}"
