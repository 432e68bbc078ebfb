"""Requests that go on while something happens to the mesh, from threads of the test."""

from __future__ import annotations

import threading

from tests.support.labmesh import PORT, World
from tests.support.labtraffic import PATIENCE_S, Talk, until

RESTART_S = 60.0
"""How long a connection may wait for another agent: SYNs come again after 1, 3, 7, 15, 31 s."""


class Traffic:
    """Requests without a pause, on one connection and each on a new one, until it ends.

    `patience_s`: for one of them.
    """

    def __init__(self, world: World, client: str, host: str, patience_s: float = PATIENCE_S) -> None:
        self._world, self._client, self._host, self._patience_s = world, client, host, patience_s
        self._is_ending = threading.Event()
        self.served = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._talk() as kept:
                while not self._is_ending.wait(0.01):
                    kept.say()
                    with self._talk() as talk:
                        talk.say()
                    self.served += 1
        except OSError as error:
            self.failures.append(self._told(error))

    def _talk(self) -> Talk:
        return Talk(self._world.dial(self._client, self._host, timeout_s=self._patience_s))

    def _told(self, error: OSError) -> str:
        return f"{self._client} to {self._host}, after {self.served}: {error!r}"

    def goes_on(self, requests: int = 20) -> None:
        """Return when so many more were served, or one failed."""
        wanted = self.served + requests
        until(lambda: self.failures or self.served >= wanted, f"{requests} more requests", self._patience_s)
        assert not self.failures, self.failures


class New(Traffic):
    """Only requests that have a connection of their own."""

    def _run(self) -> None:
        try:
            while not self._is_ending.wait(0.01):
                with self._talk() as talk:
                    talk.say()
                self.served += 1
        except OSError as error:
            self.failures.append(self._told(error))


class Waiting:
    """A request that may take long: `answer` waits for its end."""

    def __init__(self, world: World, client: str, host: str, port: int = PORT) -> None:
        self.result = ""

        def run() -> None:
            try:
                self.result = world.ask(client, host, port, RESTART_S)
            except OSError as error:
                self.result = repr(error)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def answer(self) -> str:
        self._thread.join()
        return self.result
