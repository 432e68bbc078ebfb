"""Keeps the run directory whole: by what is in it commands, and the agent after this one, find this agent.

Where it was removed, or something was mounted over it, the lock, the socket of commands and the wishes are made again
there, whatever is found in their place; so are the wishes where their file alone is gone, or somebody else's. Of a live
worker's socket the name cannot be made again: the next agent ends such a worker.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from agent.proof.findings import Finding, Link
from agent.run_lock import AlreadyRuns, RunLock

log = logging.getLogger(__name__)

SOCKET = "agent.sock"
LEAST_BYTES = 64 << 10
"""What the wishes of a node with many pods take twice over: once as a draft."""
REMEDY = "give it room, and make it writable, or start the agent with another --run-dir"


class Wishes(Protocol):
    """What is wished, and the record of it in the run directory."""

    @property
    def are_wishes_kept(self) -> bool: ...

    def keep_wishes(self) -> None: ...


class RunDirectory:
    """One per agent; also a check."""

    def __init__(self, directory: Path, lock: RunLock, wishes: Wishes) -> None:
        self._directory = directory
        self._lock = lock
        self._wishes = wishes
        self._is_record_missed = False
        self._open_socket: Callable[[Path], Awaitable[None]] | None = None
        self._socket: os.stat_result | None = None

    async def open(self, open_socket: Callable[[Path], Awaitable[None]]) -> None:
        """Have commands answered: `open_socket` listens at a path, in place of what it has opened before."""
        self._open_socket = open_socket
        await open_socket(self._directory / SOCKET)
        self._socket = (self._directory / SOCKET).stat()

    async def __call__(self) -> list[Finding]:
        missing = self._missing()
        try:
            if missing and self._open_socket is not None:
                log.warning(
                    "%s is gone from the run directory %s: it is made again", missing, self._directory
                )
                await self._make_again(self._open_socket)
            self._keep_record()
            reason = self._unusable()
        except (OSError, AlreadyRuns) as error:
            reason = f"{missing} is gone and cannot be made again: {error}" if missing else str(error)
        if not reason:
            return []
        text = f"run directory {self._directory}: {reason}; no worker can be started and no wish kept"
        return [Finding(Link.PROOF, "", text, REMEDY)]

    def close(self) -> None:
        """Take the socket away."""
        if not self._missing_socket():
            try:
                (self._directory / SOCKET).unlink(missing_ok=True)
            except OSError as error:
                log.warning("the name of a socket stays: %s", error)

    def _missing(self) -> str:
        if not self._lock.is_whole:
            return "the lock of this agent"
        return "the socket of this agent" if self._missing_socket() else ""

    def _missing_socket(self) -> bool:
        try:
            return self._socket is None or not os.path.samestat(
                self._socket, (self._directory / SOCKET).stat()
            )
        except OSError:
            return True

    async def _make_again(self, open_socket: Callable[[Path], Awaitable[None]]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._lock.is_whole:
            self._lock.take_anew()
        await self.open(open_socket)
        self._wishes.keep_wishes()

    def _keep_record(self) -> None:
        """Else the next agent would close pods that this one serves."""
        was_missed, self._is_record_missed = self._is_record_missed, not self._wishes.are_wishes_kept
        if self._is_record_missed:
            if not was_missed:
                log.warning(
                    "the record of wishes in %s is gone, or not what was written: it is written again",
                    self._directory,
                )
            self._wishes.keep_wishes()

    def _unusable(self) -> str:
        room = os.statvfs(self._directory)
        if room.f_flag & os.ST_RDONLY:
            return "it is read-only"
        if room.f_bavail * room.f_frsize < LEAST_BYTES or (room.f_files and not room.f_favail):
            return "its file system is full"
        return ""
