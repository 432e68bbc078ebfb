"""The manifest directory on disk: read what changed, hand it to `admission`, remember what stands.

Reading is cut into pieces. What changed is read as one `batch`; a file with security documents that changes meanwhile
is read at once, and what of it only closes need not wait for the batch (`Reading.waiting`). All else has its turn.

A file that cannot be read at all leaves everything of it as it was; an empty one counts as such, because most often it
is one that is being written. So does one that was made shorter in its place a moment ago: a policy is not gone because
`helm template` has not come to it yet. What is served is kept in `manifests.json`, so that a restart beside a broken
file still serves its last good form.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.controlplane.read.admission import NOTHING, Standing, admit
from agent.controlplane.read.batch import Batch, is_guarded, load
from agent.controlplane.read.birth import born_ns
from agent.controlplane.read.last_good import SAVED, LastGood, decode
from agent.controlplane.read.manifests import Manifest, parse
from agent.controlplane.read.objects import Object
from agent.controlplane.read.overtaking import Guard
from agent.controlplane.read.pieces import Pieces
from agent.controlplane.read.quick_admission import Claims, quickly
from agent.controlplane.read.scan import WHOLE, Found, Stamp, scan, scan_again
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.state_dir import StateDirectory, StateError

SETTLE_S = 0.5
"""Who writes a file in its place does not pause for so long."""
OVERTAKING_BYTES = 2**20
"""A file that is larger has its turn."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What to serve. `is_complete`: everything was read once, or an earlier run had served.

    `waiting`: security objects that were read already, while what changed with them or before was not.
    """

    standing: Standing
    passed_over: tuple[str, ...]
    is_complete: bool
    waiting: tuple[Object, ...] = ()


@dataclass(frozen=True, slots=True)
class _Late:
    """A file that changed while others were read."""

    stamp: Stamp
    guards: tuple[Object, ...]


class ManifestDirectory:
    """One directory of manifests; `read`, or `step` by step, whenever something may have changed.

    `clock`: seconds since the epoch.
    """

    def __init__(self, path: Path, state: StateDirectory, clock: Callable[[], float] = time.time) -> None:
        if not path.is_dir():
            raise StateError(f"the manifest directory {path} does not exist")
        self._path, self._state, self._clock = path, state, clock
        self.is_unsettled = False
        """Whether a file is being written: look again in SETTLE_S."""
        saved = state.read_json(SAVED, decode, None)
        self._is_complete = saved is not None
        self._last_good = self._saved = saved or LastGood()
        self._files: dict[str, Manifest | ManifestError] = {}
        self._standing: Standing = NOTHING
        if saved is not None:
            self._standing, files = saved.standing()
            self._files.update(files)
        self._known: dict[str, tuple[str, Pieces]] = {
            name: (text, Pieces(manifest))
            for name, text in self._last_good.texts.items()
            if isinstance(manifest := self._files.get(name), Manifest)
        }
        self._stamps: dict[str, Stamp] | None = None
        self._found = self._looked = Found()
        self._touched: set[str] | None = None
        """Names that may have changed since `_found`; None: any."""
        self._batch: Batch | None = None
        self._late: dict[str, _Late] = {}
        self._unsettled: frozenset[str] = frozenset()
        self._claims: Claims | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether there is more to be read, so that `step` is to be called again at once."""
        if self._batch is not None:
            return True
        stamps = self._stamps or {}
        return any(
            stamps.get(name) != late.stamp for name, late in self._late.items() if name not in self._unsettled
        )

    @property
    def reading(self) -> Reading:
        passed_over = tuple(
            f"{name}: {why}; not read" for name, why in sorted(self._found.passed_over.items())
        )
        waiting = [o for late in self._late.values() for o in late.guards]
        if self._batch is not None:
            waiting += self._batch.guards()
        return Reading(self._standing, passed_over, self._is_complete, tuple(waiting))

    def read(self) -> Reading | None:
        """Take in what changed on disk since the last time, to the end, and remember it; None if nothing did."""
        result = self.step()
        while self.is_unfinished:
            result = self.step(frozenset()) or result
        self.save()
        return result

    def step(self, noticed: frozenset[str] | None = None) -> Reading | None:
        """A piece of that: what has come of it, None if nothing has.

        `noticed`: the files that may have changed; None: look at all of them.
        """
        waiting = self.reading.waiting
        self._look(noticed)
        if self._batch is None and not self._begin():
            return None
        if self._batch is not None and not self._batch.go_on():
            self._end(self._batch)
            return self.reading
        after = self.reading
        return after if after.waiting != waiting else None

    def _look(self, noticed: frozenset[str] | None) -> None:
        """See what lies there now. A file with security documents that is new beside a batch is read at once."""
        if noticed is not None:
            noticed |= self._unsettled
        found = scan_again(self._path, self._looked, noticed) if noticed is not None else None
        try:
            self._looked = found or scan(self._path)
        except OSError as error:
            self._looked = Found(self._looked.files, closed={WHOLE: f"{self._path}: {error.strerror}"})
        if found is None or noticed is None:
            self._touched = None
        elif self._touched is not None:
            self._touched |= noticed
        files = self._looked.files
        self._late = {name: late for name, late in self._late.items() if name in files}
        if self._batch is None or self._stamps is None:
            return
        for name in files if found is None or noticed is None else noticed & files.keys():
            stamp, before = files[name], self._stamps.get(name)
            known = self._late.get(name)
            if stamp != before and (known is None or known.stamp != stamp) and not self._is_written(name):
                self._late[name] = _Late(stamp, self._guards(name, stamp))

    def _guards(self, name: str, stamp: Stamp) -> tuple[Object, ...]:
        text = load(self._path, name) if stamp.size <= OVERTAKING_BYTES else ""
        if isinstance(text, ManifestError) or not is_guarded(text):
            return ()
        return tuple(o for o in parse(name, text).objects if isinstance(o, Guard))

    def _begin(self) -> bool:
        """Begin with what has changed since the last batch; whether anything has."""
        before = self._stamps or {}
        looked, touched = self._looked, self._touched
        files = looked.files
        candidates = files if touched is None else sorted(touched & files.keys())
        changed = [name for name in candidates if before.get(name) != files[name]]
        self._unsettled = frozenset(name for name in changed if self._is_written(name))
        self.is_unsettled = bool(self._unsettled)
        self._touched = set(self._unsettled)
        if (
            touched is not None
            and len(changed) == len(self._unsettled)
            and not touched & before.keys() - files.keys()
        ):
            return False
        kept = {name: before[name] for name in self._unsettled}
        found = Found({**files, **kept}, looked.passed_over, looked.closed)
        if touched is None and found == self._found and self._stamps is not None:
            return False
        self._found, self._stamps = found, found.files
        stamps = {name: found.files[name] for name in changed if name not in kept}
        # It may have changed once more since: what is read now is the newest, and what is late is late no longer then.
        self._late |= {n: _Late(stamps[n], late.guards) for n, late in self._late.items() if n in stamps}
        self._batch = Batch(self._path, stamps, self._known)
        return True

    def _is_written(self, name: str) -> bool:
        """Whether somebody may be at it: less is in it than was, and not for long. A new file in its place is whole."""
        before, now = (self._stamps or {}).get(name), self._looked.files[name]
        if before is None or now.inode != before.inode or now.size >= before.size:
            return False
        age_s = self._clock() - now.changed_ns / 1e9
        if not 0 <= age_s < SETTLE_S:
            return False
        # A file system gives the number of an inode that is gone to the next file. The time of its last change nobody
        # can set, and none is before its birth: one born after that of what was there is another file.
        born = born_ns(self._path / name)
        return born is None or born <= before.touched_ns

    def _end(self, batch: Batch) -> None:
        """Take the batch in."""
        changed: dict[str, Manifest | ManifestError | None] = dict(batch.unread)
        for name in batch.stamps.keys() - batch.unread.keys():
            if name in batch.pieces:
                self._known[name] = batch.texts[name], batch.pieces[name]
            changed[name] = self._known[name][1].manifest
        for name in self._files:
            if name not in self._found.files and not self._found.is_below_closed(name):
                changed[name] = None
                self._known.pop(name, None)
        for name, reason in self._found.closed.items():
            changed[name] = ManifestError(f"cannot be read: {reason}", file=name, line=1)
        self._batch = None
        self._admit(changed)
        stamps = self._stamps or {}
        self._late = {name: late for name, late in self._late.items() if stamps.get(name) != late.stamp}

    def _admit(self, changed: Mapping[str, Manifest | ManifestError | None]) -> None:
        before, kept_before = self._files, self._standing.kept
        self._files = {
            name: manifest for name, manifest in {**before, **changed}.items() if manifest is not None
        }
        claims, standing = self._claims, None
        if claims is not None and self._is_complete:
            standing = quickly(self._standing, claims, before, changed)
        if standing is None:
            standing = admit(self._standing, self._files, is_first=not self._is_complete)
        if claims is None:
            claims = self._claims = Claims()
            changed = {**self._files, **changed}
        for name in {*changed, *kept_before, *standing.kept}:
            claims.follow(name, self._files.get(name), standing.kept.get(name, ()))
        self._standing = standing
        self._is_complete = self._is_complete or standing.is_whole
        texts = {name: text for name, (text, _) in self._known.items()}
        self._last_good = self._last_good.follow(standing, texts)

    def save(self) -> None:
        """Remember what stands, for the next start. May run beside `read`."""
        last_good = self._last_good
        if last_good == self._saved or not self._is_complete:
            return
        try:
            self._state.write_json(SAVED, last_good.as_json())
            self._saved = last_good
        except StateError as error:
            log.error("%s; a restart beside a broken file would serve less", error)
