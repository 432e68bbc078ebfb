"""Proves that each listener is served: dials it in its namespace, and hears a worker close the connection.

The kernel completes a handshake for a queue that nobody serves, so a connection proves nothing; its end does.
A worker knows these dials by both addresses being the proxy's own, and closes them without a word: nobody else
can have such a connection, because a pod and the network are never given that source.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from agent.proof.findings import Finding, Link

PATIENCE_S = 1.0
DIALS_PER_WORKER = 2

MakeSocket = Callable[[str, int], socket.socket]
"""(path of a namespace, address family) -> a fresh non-blocking TCP socket born there."""


class NoSocket(OSError):
    """This process could not make the socket of a dial: that says nothing of the listener."""


@dataclass(frozen=True, slots=True)
class Served:
    """A listener that should be served: its name, the namespace it lives in, its port."""

    name: str
    netns: str
    port: int


class ListenerCheck:
    """Dials every listener a few times a round. `address` is the proxy's own, on lo of the private namespaces.

    `dials` for each: the kernel spreads them over the workers by a hash, so that one alone may miss one that hangs.
    """

    def __init__(
        self,
        listeners: tuple[Served, ...],
        address: str,
        make_socket: MakeSocket,
        dials: int,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._listeners = listeners
        self._address = address
        self._make_socket = make_socket
        self._dials = dials
        self._patience_s = patience_s

    async def __call__(self) -> list[Finding]:
        found = await asyncio.gather(*map(self._prove, self._listeners))
        return [finding for finding in found if finding is not None]

    async def _prove(self, served: Served) -> Finding | None:
        listener = f"the {served.name} listener (port {served.port})"
        tried = await asyncio.gather(*(self._failure(served) for _ in range(self._dials)))
        failures = [failure for failure in tried if failure is not None]
        if not failures:
            return None
        # What is wrong with this process alone is no fault of the listener: connections may be as well as ever.
        own = [failure for failure in failures if isinstance(failure, NoSocket)]
        if len(own) == len(failures):
            return Finding(
                Link.PROOF,
                "",
                f"{listener} cannot be proven: {_why(own[0])}",
                "no descriptors or memory for this process, or the name of a namespace is gone (it is made again)",
            )
        refused = [failure for failure in failures if not isinstance(failure, TimeoutError | NoSocket)]
        if refused:
            error = refused[0]
            reason = f"{listener} cannot be reached: {_why(error)}"
        elif len(failures) - len(own) == self._dials:
            reason = f"nobody accepts on {listener}"
        else:
            reason = f"a worker does not accept on {listener}: {len(failures)} of {self._dials} dials hang"
        return Finding(
            Link.LISTENER,
            "",
            f"{reason}: new connections of pods wait or fail",
            "look for a worker that hangs in `ztun status -o json`; restarting the agent replaces the workers",
        )

    async def _failure(self, served: Served) -> OSError | None:
        """Why a dial proves nothing; None: a worker answered it."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._dial(served)
        except OSError as error:
            return error
        return None

    async def _dial(self, served: Served) -> None:
        """Return when a worker has closed the connection in good order. Raises TimeoutError or OSError."""
        loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        try:
            made = self._make_socket(served.netns, family)
        except OSError as error:
            raise NoSocket(error.errno, str(error)) from error
        with made as sock:
            # From the address that is dialled: a worker knows its own proofs by that.
            sock.bind((self._address, 0))
            await loop.sock_connect(sock, (self._address, served.port))
            await loop.sock_recv(sock, 1)


def _why(error: OSError) -> str:
    # asyncio's own text of a failed connect says less
    return os.strerror(error.errno) if error.errno else str(error)
