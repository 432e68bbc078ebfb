"""The objects of the API as files of a directory that `read.directory` reads: KIND/NAMESPACE/NAME.json.

One file an object, so that one that cannot be used is refused by its name, keeps its last good form and touches no
other. A file is put in place whole; an object whose document is as before is not written again. Nothing here is meant
to outlive the process: the directory is emptied at the start, and filled before anybody reads it.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from agent.controlplane.kubeapi.stored import KINDS, Kind, Stored
from agent.controlplane.state_dir import StateError
from agent.kubernetes.reflector import Change, Gone, Listed, Put

NAME_LIMIT = 200
"""A name of the API may have 253 characters, one of a file 255 with everything that is added here."""


class Mirror:
    """Called from the threads of the watchers, each with a kind of its own. Raises StateError where it cannot write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._texts: dict[Path, str] = {}
        self._homes: dict[tuple[str, str, str], tuple[str, str]] = {}
        self._unlisted = {kind.name for kind in KINDS}
        self._drafts = itertools.count()
        self._lock = threading.Lock()
        self._touched: set[str] = set()
        try:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        except OSError as error:
            raise StateError(
                f"cannot make {directory} for the objects of the API: {error.strerror}"
            ) from error

    @property
    def is_whole(self) -> bool:
        """Whether every kind was listed once."""
        return not self._unlisted

    @property
    def missing(self) -> list[str]:
        """Kinds that were not listed yet."""
        return sorted(self._unlisted)

    def node_of(self, namespace: str, pod: str, uid: str) -> str | None:
        """Where that very pod runs; None: it is not there, or not yet."""
        known = self._homes.get(("Pod", namespace, pod))
        return known[1] if known is not None and known[0] == uid and known[1] else None

    @property
    def touched(self) -> int:
        """How many files are other than when they were taken last."""
        return len(self._touched)

    def take_touched(self) -> frozenset[str]:
        """The names of those, below the directory."""
        with self._lock:
            taken, self._touched = self._touched, set()
        return frozenset(taken)

    def hear(self, kind: Kind, changes: Sequence[Change[Stored]]) -> bool:
        """Whether a file is other now, and none was when they were taken: whoever takes them has to be told."""
        is_news = False
        for change in changes:
            match change:
                case Put(found):
                    self._homes[kind.name, found.namespace, found.name] = found.uid, found.node
                    path = self._path(kind, found.namespace, found.name)
                    is_news |= self._write(path, found.text) and self._touch(path)
                case Gone(namespace, name):
                    path = self._path(kind, namespace, name)
                    self._homes.pop((kind.name, namespace, name), None)
                    self._remove(path)
                    is_news |= self._touch(path)
                case Listed():
                    self._unlisted.discard(kind.name)
        return is_news

    def _path(self, kind: Kind, namespace: str, name: str) -> Path:
        if len(name) > NAME_LIMIT:
            uid = self._homes.get((kind.name, namespace, name), ("",))[0]
            name = f"{name[:NAME_LIMIT]}~{uid}"
        return self.directory / kind.name / namespace / f"{name}.json"

    def _write(self, path: Path, text: str) -> bool:
        """Whether it was another."""
        if self._texts.get(path) == text:
            return False
        # Hidden and without the ending of a manifest: a draft is none.
        draft = path.with_name(f".{next(self._drafts)}")
        try:
            try:
                draft.write_text(text)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                draft.write_text(text)
            draft.replace(path)
        except OSError as error:
            raise StateError(f"cannot write {path}: {error.strerror}") from error
        self._texts[path] = text
        return True

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._texts.pop(path, None)

    def _touch(self, path: Path) -> bool:
        """Whether it is the first since they were taken."""
        with self._lock:
            self._touched.add(str(path.relative_to(self.directory)))
            return len(self._touched) == 1
