"""Follows the manifests while a control plane runs: notices in, readings to be served, and what is said afterwards.

Reading and composing run in a thread, in pieces between which notices are heard. What only closes is served as soon as
it is read. Reports, and what is written for the next start, are made in another thread, the newest alone: nothing that
is served waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

from agent.controlplane.publication import Publication
from agent.controlplane.read.directory import SETTLE_S, ManifestDirectory, Reading
from agent.controlplane.read.notices import Deaf
from agent.controlplane.report import Announcer, Report, report
from agent.controlplane.serve.conditions_file import ConditionsFile
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.state_dir import StateError
from agent.controlplane.translate.mesh import MeshSettings

LOOK_S = 2.0
PATIENCE = 3
"""How often composing is broken off in a row."""
REST_SHARE, REST_LIMIT_S = 4.0, 5.0
"""What is said and written afterwards is about everything, however little has changed: while changes come, it takes a
fifth of the time, and none of them waits longer than that."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class Overtaken(Exception):
    """Composing was broken off, because files have changed that may have to be first."""


class Following:
    """`begin` takes the manifests in as they are, `run` follows them until it is cancelled, `end` waits for threads.

    `notices`: as `read.notices.watch`.
    """

    def __init__(
        self,
        notices: Callable[[], AsyncGenerator[frozenset[str] | None, None]],
        directory: ManifestDirectory,
        publication: Publication,
        announcer: Announcer,
        board: StatusBoard,
        settings: MeshSettings,
        conditions: ConditionsFile | None = None,
    ) -> None:
        self._notices, self._settings, self._conditions = notices, settings, conditions
        self._directory, self._publication = directory, publication
        self._announcer, self._board = announcer, board
        self._noticed: set[str] | None = set()
        """Names that may have changed; None: any."""
        self._news, self._unsaid = asyncio.Event(), asyncio.Event()
        self._is_behind = False
        """Whether something was read that is not served."""
        self._reading = directory.reading
        self._broken_off = 0
        self._works: set[asyncio.Future[Any]] = set()

    def begin(self) -> None:
        """Raises StateError."""
        self._directory.read()
        reading = self._directory.reading
        made = self._publication.make(reading)
        if made is None:
            self._publication.wait(reading)
        else:
            self._publication.take(made)
        said = report(reading, self._publication.unaddressed, self._settings)
        self._announcer.say(said)
        self._write_conditions(said)
        self._save()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear())
            tasks.create_task(self._look())
            tasks.create_task(self._tell())
            tasks.create_task(self._keep_status())

    @property
    def is_at_work(self) -> bool:
        return bool(self._works)

    async def end(self) -> None:
        """Wait until no thread writes to the state directory any more, and write what is left."""
        if self._works:
            await asyncio.wait(self._works)
        self._save()

    def _save(self) -> None:
        self._directory.save()
        self._board.save()

    # -- notices

    async def _hear(self) -> None:
        """Where notices fail, look now and then."""
        said = ""
        while True:
            try:
                async with aclosing(self._notices()) as notices:
                    async for names in notices:
                        self._note(names)
            except Deaf as deaf:
                if said != (said := str(deaf)):
                    log.warning("no notices of changed manifests: %s; looking every %g s", said, LOOK_S)
            await asyncio.sleep(LOOK_S)
            self._note(None)

    def _note(self, names: frozenset[str] | None) -> None:
        if names is None:
            self._noticed = None
        elif self._noticed is not None:
            self._noticed |= names
        self._news.set()

    # -- what is served

    async def _look(self) -> None:
        while True:
            with suppress(TimeoutError):
                # A file that is being written is looked at again; until then others are read.
                async with asyncio.timeout(SETTLE_S if self._directory.is_unsettled else None):
                    await self._news.wait()
            await self._read()
            while self._directory.is_unfinished or self._publication.has_rest or self._broken_off:
                await self._read()

    async def _read(self) -> None:
        self._news.clear()
        noticed, self._noticed = self._noticed, set()
        names = None if noticed is None else frozenset(noticed)
        reading = await self._aside(lambda: self._directory.step(names))
        if reading is None and not self._is_behind and not self._publication.has_rest:
            return
        self._reading = self._directory.reading
        try:
            self._is_behind = not await self._serve(self._reading)
            self._broken_off = 0
        except Overtaken:
            self._is_behind, self._broken_off = True, self._broken_off + 1

    def _pulse(self) -> None:
        if self._noticed and self._broken_off < PATIENCE:
            raise Overtaken

    async def _serve(self, reading: Reading) -> bool:
        made = await self._aside(lambda: self._publication.make(reading, self._pulse))
        self._unsaid.set()
        if made is None:
            self._publication.wait(reading)
            return True
        try:
            self._publication.take(made)
        except StateError as error:
            log.error("%s; Services with new addresses wait, all else is served; this is tried again", error)
            return False
        return True

    # -- what is said afterwards

    async def _tell(self) -> None:
        while True:
            await self._unsaid.wait()
            self._unsaid.clear()
            began_s = time.monotonic()
            unaddressed = self._publication.unaddressed
            made = await self._aside(partial(report, self._reading, unaddressed, self._settings))
            self._announcer.say(made)
            await self._aside(partial(self._write_conditions, made))
            await self._aside(self._directory.save)
            await _rest(began_s)

    def _write_conditions(self, made: Report) -> None:
        if self._conditions is not None:
            self._conditions.write(made.conditions)

    async def _keep_status(self) -> None:
        with self._board.bell.listen() as changed:
            while True:
                began_s = time.monotonic()
                is_saved = await self._aside(self._board.save)
                await _rest(began_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if is_saved else LOOK_S):
                        await changed.wait()
                changed.clear()

    async def _aside(self, work: Callable[[], T]) -> T:
        done = asyncio.get_running_loop().run_in_executor(None, work)
        self._works.add(done)
        done.add_done_callback(self._works.discard)
        # Who waits may be cancelled, and the thread not: `end` waits for it, as it writes to the state directory.
        return await asyncio.shield(done)


async def _rest(began_s: float) -> None:
    await asyncio.sleep(min(REST_SHARE * (time.monotonic() - began_s), REST_LIMIT_S))
