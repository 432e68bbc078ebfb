"""Keeps the pins of objects that this process holds open: what lost its pin is pinned again.

A program, map or link lives as long as anybody holds a descriptor or a pin of it. The descriptor is for as long as
this process lives, the pin for the one after it; whoever removes a pin meanwhile detaches nothing. One directory
of a bpffs, one name for each object. Owns no descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from redirect import sys_bpf

SPARE = "-next"
"""Ends the name of a pin that is about to take another's place; one that is there was left by a crash."""


class NotAllPinned(OSError):
    """Some could not be pinned again; those that were are `pinned`."""

    def __init__(self, cause: OSError, pinned: Iterable[str]) -> None:
        super().__init__(cause.errno, cause.strerror, cause.filename)
        self.pinned = tuple(pinned)


def restore_all(*ways: Callable[[], list[str]]) -> list[str]:
    """Each of these, also where one before it fails: the names of all. Raises NotAllPinned."""
    pinned: list[str] = []
    failure: OSError | None = None
    for restore in ways:
        try:
            pinned += restore()
        except NotAllPinned as error:
            pinned += error.pinned
            failure = failure or error
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise NotAllPinned(failure, pinned) from failure
    return pinned


class KeptPins:
    """The pins in one directory, which may move to another bpffs: `directory` is asked each time."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._seen_as: dict[str, int] = {}

    def found(self, name: str) -> None:
        """An object was opened by its pin, so that is where the pin leads."""
        self._seen_as[name] = (self._directory() / name).stat().st_ino

    def lost(self, held: Mapping[str, int]) -> list[str]:
        """Names whose pin is gone, or is another file than the one last known to lead to the object."""
        directory = self._directory()
        try:
            with os.scandir(directory) as entries:
                found = {entry.name: entry.inode() for entry in entries}
        except FileNotFoundError:
            found = {}
        return [name for name in held if name not in found or found[name] != self._seen_as.get(name)]

    def restore(self, held: Mapping[str, int]) -> list[str]:
        """Pins every held object that has no pin of its name; the names. Raises NotAllPinned, with the others done."""
        pinned, failure = [], None
        for name in self.lost(held):
            try:
                if self._pin(name, held[name]):
                    pinned.append(name)
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise NotAllPinned(failure, pinned) from failure
        return pinned

    def keep(self, name: str, fd: int) -> None:
        """Pins one object unless its pin is where it was, however many others there are. Raises OSError."""
        try:
            is_kept = (self._directory() / name).stat().st_ino == self._seen_as.get(name)
        except FileNotFoundError:
            is_kept = False
        if not is_kept:
            self._pin(name, fd)

    def supplant(self, name: str, fd: int) -> None:
        """Has a pin lead to another object, without a moment in which it leads to none. Raises OSError."""
        directory = self._directory()
        spare = directory / f"{name}{SPARE}"
        sys_bpf.obj_pin(fd, spare)
        spare.rename(directory / name)
        self.found(name)

    def remove(self, name: str) -> None:
        """Unpins; a pin that is not there is nothing to do."""
        self._seen_as.pop(name, None)
        (self._directory() / name).unlink(missing_ok=True)

    def _pin(self, name: str, fd: int) -> bool:
        """Whether it had to be pinned."""
        path = self._directory() / name
        leads_here = path.exists() and _object_behind(path) == sys_bpf.object_id(fd)
        if not leads_here:
            path.unlink(missing_ok=True)
            sys_bpf.obj_pin(fd, path)
        self.found(name)
        return not leads_here


def _object_behind(path: Path) -> tuple[int, int]:
    fd = sys_bpf.obj_get(path)
    try:
        return sys_bpf.object_id(fd)
    finally:
        os.close(fd)
