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

from agent.model.counted import counted
from agent.proof.findings import Finding, Link

PATIENCE_S = 1.0
DIALS_PER_WORKER = 2

MakeSockets = Callable[[str, int, int], list[socket.socket]]
"""(path of a namespace, address family, how many) -> fresh non-blocking TCP sockets born there.

Fewer, where no more can be had. Raises OSError where there would be none.
"""


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
        make_sockets: MakeSockets,
        dials: int,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._listeners = listeners
        self._address = address
        self._make_sockets = make_sockets
        self._dials = dials
        self._patience_s = patience_s

    async def __call__(self) -> list[Finding]:
        found = await asyncio.gather(*map(self._prove, self._listeners))
        return [finding for finding in found if finding is not None]

    async def _prove(self, served: Served) -> Finding | None:
        listener = f"the {served.name} listener (port {served.port})"
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        try:
            socks = self._make_sockets(served.netns, family, self._dials)
        except OSError as error:
            # What is wrong with this process alone is no fault of the listener: connections may be as well as ever.
            return Finding(
                Link.PROOF,
                "",
                f"{listener} cannot be proven: {_why(error)}",
                "no descriptors or memory for this process, or the name of a namespace is gone (it is made again)",
            )
        dials = _Dials(asyncio.get_running_loop(), socks)
        try:
            await dials.prove((self._address, served.port), self._patience_s)
        finally:
            dials.close()
        if not dials.failures and not dials.waiting:
            return None
        if dials.failures:
            reason = f"{listener} cannot be reached: {_why(dials.failures[0])}"
        elif len(dials.waiting) == len(socks):
            reason = f"nobody accepts on {listener}"
        else:
            hang = f"of {counted(len(socks), 'dial')} {counted(len(dials.waiting), 'hangs', 'hang')}"
            reason = f"a worker does not accept on {listener}: {hang}"
        return Finding(
            Link.LISTENER,
            "",
            f"{reason}: new connections of pods wait or fail",
            "look for a worker that hangs in `ztun status -o json`; restarting the agent replaces the workers",
        )


class _Dials:
    """Some dials of one listener, side by side. Plain callbacks: a task and a time-out for each would cost far more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socks: list[socket.socket]) -> None:
        self._loop = loop
        self._socks = socks
        self._all_heard = loop.create_future()
        self.waiting = set(socks)
        """Nobody has answered those."""
        self.failures: list[OSError] = []
        """Why others prove nothing. Those that a worker has closed in good order are in neither."""

    async def prove(self, target: tuple[str, int], patience_s: float) -> None:
        """Dial, and return when all are answered, or patience ends."""
        for sock in self._socks:
            self._loop.add_reader(sock, self._heard, sock)
            try:
                # From the address that is dialled: a worker knows its own proofs by that.
                sock.bind((target[0], 0))
                sock.connect(target)
            except BlockingIOError:
                pass
            except OSError as error:
                self._over(sock, error)
        try:
            async with asyncio.timeout(patience_s):
                await self._all_heard
        except TimeoutError:
            pass

    def close(self) -> None:
        for sock in self.waiting:
            self._loop.remove_reader(sock)
        for sock in self._socks:
            sock.close()

    def _heard(self, sock: socket.socket) -> None:
        try:
            sock.recv(1)
        except BlockingIOError:
            return
        except OSError as error:
            self._over(sock, error)
        else:
            self._over(sock, None)

    def _over(self, sock: socket.socket, failure: OSError | None) -> None:
        self._loop.remove_reader(sock)
        self.waiting.discard(sock)
        if failure is not None:
            self.failures.append(failure)
        if not self.waiting and not self._all_heard.done():
            self._all_heard.set_result(None)


def _why(error: OSError) -> str:
    # asyncio's own text of a failed connect says less
    return os.strerror(error.errno) if error.errno else str(error)
