"""The manifest directory on disk: read what changed, hand it to `admission`, remember what stands, watch.

A file that cannot be read at all leaves everything of it as it was; an empty one counts as such, because most often it
is one that is being written. So does one that was made shorter in its place a moment ago: a policy is not gone because
`helm template` has not come to it yet. What is served is kept in `manifests.json`, so that a restart beside a broken
file still serves its last good form.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch

from agent.controlplane.read.admission import NOTHING, Standing, admit
from agent.controlplane.read.last_good import SAVED, LastGood, decode
from agent.controlplane.read.manifests import Manifest, parse
from agent.controlplane.read.scan import WHOLE, Found, Stamp, scan
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.state_dir import StateDirectory, StateError

SIZE_LIMIT_BYTES = 64 * 2**20
DEBOUNCE_MS = 50
RESCAN_MS = 2000
"""Also without a notice: those of network file systems and of swapped links get lost."""

SETTLE_S = 0.5
"""Who writes a file in its place does not pause for so long."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What to serve. `is_complete`: everything was read once, or an earlier run had served."""

    standing: Standing
    passed_over: tuple[str, ...]
    is_complete: bool


class Deaf(Exception):
    """The kernel's notices of changes cannot be had; the message says why."""


class ManifestDirectory:
    """One directory of manifests; `read` whenever something may have changed. `clock`: seconds since the epoch."""

    def __init__(self, path: Path, state: StateDirectory, clock: Callable[[], float] = time.time) -> None:
        if not path.is_dir():
            raise StateError(f"the manifest directory {path} does not exist")
        self._path, self._state, self._clock = path, state, clock
        self.is_unsettled = False
        """Whether a file is being written: `read` again in SETTLE_S."""
        saved = state.read_json(SAVED, decode, None)
        self._is_complete = saved is not None
        self._last_good = saved or LastGood()
        self._files: dict[str, Manifest | ManifestError] = {}
        self._standing: Standing = NOTHING
        if saved is not None:
            self._standing, files = saved.standing()
            self._files.update(files)
        self._texts: dict[str, str] = dict(self._last_good.texts)
        self._stamps: dict[str, Stamp] | None = None
        self._found = Found()

    def read(self) -> Reading | None:
        """Take in what changed on disk since the last time; None if nothing did."""
        try:
            found = scan(self._path)
        except OSError as error:
            found = Found(self._found.files, closed={WHOLE: f"{self._path}: {error.strerror}"})
        before = self._stamps or {}
        written = [name for name, stamp in found.files.items() if self._is_written(before.get(name), stamp)]
        self.is_unsettled = bool(written)
        found.files.update((name, before[name]) for name in written)
        if found == self._found and self._stamps is not None:
            return None
        self._found, self._stamps = found, dict(found.files)
        for name in [n for n in self._files if n not in found.files and not found.is_below_closed(n)]:
            self._files.pop(name)
            self._texts.pop(name, None)
        for name, stamp in found.files.items():
            if before.get(name) != stamp:
                self._take(name)
        for name, reason in found.closed.items():
            self._files[name] = ManifestError(f"cannot be read: {reason}", file=name, line=1)
        self._admit()
        return self.reading

    @property
    def reading(self) -> Reading:
        passed_over = tuple(
            f"{name}: {why}; not read" for name, why in sorted(self._found.passed_over.items())
        )
        return Reading(self._standing, passed_over, self._is_complete)

    def _is_written(self, before: Stamp | None, now: Stamp) -> bool:
        """Whether somebody may be at it: less is in it than was, and not for long. A new file in its place is whole."""
        if before is None:
            return False
        (_, size_before, inode_before), (changed_ns, size, inode) = before, now
        age_s = self._clock() - changed_ns / 1e9
        return inode == inode_before and size < size_before and 0 <= age_s < SETTLE_S

    def _take(self, name: str) -> None:
        loaded = self._load(name)
        if isinstance(loaded, ManifestError):
            self._files[name] = loaded
        elif loaded != self._texts.get(name) or not isinstance(self._files.get(name), Manifest):
            self._texts[name] = loaded
            self._files[name] = parse(name, loaded)

    def _admit(self) -> None:
        self._standing = admit(self._standing, self._files, is_first=not self._is_complete)
        self._is_complete = self._is_complete or self._standing.is_whole
        after = self._last_good.follow(self._standing, self._texts)
        if after == self._last_good:
            return
        self._last_good = after
        if self._is_complete:
            self._save()

    def _save(self) -> None:
        try:
            self._state.write_json(SAVED, self._last_good.as_json())
        except StateError as error:
            log.error("%s; a restart beside a broken file would serve less", error)

    def _load(self, name: str) -> str | ManifestError:
        try:
            with open(self._path / name, "rb") as file:
                raw = file.read(SIZE_LIMIT_BYTES + 1)
            if len(raw) > SIZE_LIMIT_BYTES:
                return ManifestError(f"larger than {SIZE_LIMIT_BYTES} bytes: split it", file=name, line=1)
            # Files that were put together have a mark of byte order in the middle, too.
            text = raw.decode("utf-8-sig").replace("\n\ufeff", "\n")
        except OSError as error:
            return ManifestError(f"cannot be read: {error.strerror}", file=name, line=1)
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            return ManifestError("not UTF-8", file=name, line=line)
        if not text.strip():
            return ManifestError("it is empty; delete it to take its objects away", file=name, line=1)
        return text

    async def watch(self) -> AsyncGenerator[None, None]:
        """Ends one wait whenever the directory may have changed; runs until it is cancelled.

        Raises Deaf where no notices can be had: of a name that is no UTF-8, of a directory that is away, beyond the
        kernel's number of watches.
        """
        try:
            async for _ in awatch(
                self._path, debounce=DEBOUNCE_MS, step=10, rust_timeout=RESCAN_MS, yield_on_timeout=True
            ):
                yield
        except (OSError, RuntimeError, ExceptionGroup) as error:
            reason = _innermost(error)
            if not isinstance(reason, OSError | RuntimeError):
                raise
            raise Deaf(str(reason)) from error


def _innermost(error: BaseException) -> BaseException:
    """What a task group's error is about, if it is about one thing."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
