"""The manifest directory on disk: read what changed, keep the last good version of every file, watch.

Files are taken in whole; hidden ones and other endings are not looked at. The texts that are served are kept in
`manifests.json`, so that a restart beside a broken file still serves its last good version. An empty file counts as
broken: most often it is one that is being written.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch

from agent.controlplane.read.inventory import NOTHING, admit
from agent.controlplane.read.manifests import Manifest, parse
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.state_dir import StateDirectory, StateError

ENDINGS = (".yaml", ".yml", ".json")
SAVED = "manifests.json"
SIZE_LIMIT_BYTES = 64 * 2**20
DEBOUNCE_MS = 50
RESCAN_MS = 2000
"""Also without a notice: those of network file systems and of swapped links get lost."""

log = logging.getLogger(__name__)
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """What to serve. `is_complete`: every file was good at least once, or an earlier run had served."""

    files: Mapping[str, Manifest]
    errors: tuple[ManifestError, ...]
    is_complete: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(w for manifest in self.files.values() for w in manifest.warnings)


class ManifestDirectory:
    """One directory of manifests; `read` whenever something may have changed."""

    def __init__(self, path: Path, state: StateDirectory) -> None:
        if not path.is_dir():
            raise StateError(f"the manifest directory {path} does not exist")
        self._path, self._state = path, state
        saved = state.read_json(SAVED, _decode_texts, None)
        self._texts: dict[str, str] = {}
        self._stamps: dict[str, Stamp] | None = None
        self._pending: dict[str, str | ManifestError] = {}
        self._served: Mapping[str, Manifest] = NOTHING
        self._errors: dict[str, ManifestError] = {}
        self._is_complete = saved is not None
        self._restore(saved or {})

    def _restore(self, saved: Mapping[str, str]) -> None:
        parsed = {name: _parse(name, text) for name, text in saved.items()}
        self._served = admit({}, parsed).served
        self._texts = {name: saved[name] for name in self._served}

    def read(self) -> Reading | None:
        """Take in what changed on disk since the last time; None if nothing did."""
        found = self._scan()
        if found is None or found == self._stamps:
            return None
        before = self._stamps or {}
        changed = {name for name, stamp in found.items() if before.get(name) != stamp}
        gone = (self._texts.keys() | self._pending.keys()) - found.keys()
        self._stamps = found
        for name in gone:
            self._pending.pop(name, None)
        # Files that could not be served are tried again: what contradicted them may have gone.
        self._pending.update({name: self._load(name) for name in changed})
        self._admit(gone)
        return self.reading

    @property
    def reading(self) -> Reading:
        errors = tuple(self._errors[name] for name in sorted(self._errors))
        return Reading(self._served, errors, self._is_complete)

    def _admit(self, gone: set[str]) -> None:
        candidates: dict[str, Manifest | ManifestError | None] = {
            name: _parse(name, text) if isinstance(text, str) else text
            for name, text in self._pending.items()
        }
        admission = admit(self._served, {**candidates, **dict.fromkeys(gone)})
        self._served, self._errors = admission.served, dict(admission.errors)
        for name in list(self._pending):
            text = self._pending[name]
            if name not in self._errors and isinstance(text, str):
                self._texts[name] = text
                del self._pending[name]
        self._texts = {name: text for name, text in self._texts.items() if name in self._served}
        self._is_complete = self._is_complete or self._errors.keys() <= self._served.keys()
        if self._is_complete:
            self._save()

    def _save(self) -> None:
        try:
            self._state.write_json(SAVED, self._texts)
        except StateError as error:
            log.error("%s; a restart beside a broken file would serve less", error)

    def _scan(self) -> dict[str, Stamp] | None:
        """File -> what tells a change; None if the directory cannot be read now, which changes nothing."""
        try:
            names = [p for p in self._path.iterdir() if p.suffix in ENDINGS and not p.name.startswith(".")]
            stats = {p.name: p.stat() for p in names if p.is_file()}
        except OSError as error:
            log.error("cannot read %s: %s; the last state stays served", self._path, error.strerror)
            return None
        return {name: (s.st_mtime_ns, s.st_size, s.st_ino) for name, s in stats.items()}

    def _load(self, name: str) -> str | ManifestError:
        try:
            raw = (self._path / name).read_bytes()
            if len(raw) > SIZE_LIMIT_BYTES:
                return ManifestError(f"larger than {SIZE_LIMIT_BYTES} bytes", file=name, line=1)
            text = raw.decode("utf-8-sig")
        except OSError as error:
            return ManifestError(f"cannot be read: {error.strerror}", file=name, line=1)
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            return ManifestError("not UTF-8", file=name, line=line)
        if not text.strip():
            return ManifestError("it is empty; delete it to take its objects away", file=name, line=1)
        return text

    async def watch(self) -> AsyncGenerator[None, None]:
        """Ends one wait whenever the directory may have changed; runs until it is cancelled."""
        async for _ in awatch(
            self._path,
            debounce=DEBOUNCE_MS,
            step=10,
            rust_timeout=RESCAN_MS,
            yield_on_timeout=True,
            recursive=False,
        ):
            yield


def _parse(name: str, text: str) -> Manifest | ManifestError:
    try:
        return parse(name, text)
    except ManifestError as error:
        return error


def _decode_texts(value: object) -> dict[str, str] | None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("want files with their texts")
    return value
