"""The state directory: what outlives the process, each file written whole or not at all.

`root.pem` (0644) is for agents, everything secret is 0600. Knows files and modes, not what is in them.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from agent.whole_file import write_whole

T = TypeVar("T")
ROOT_FILE = "root.pem"
LOCK = "control-plane"
"""Held in the state directory while a control plane lives."""
FLOCK = struct.Struct("@hhqqi4x")
"""The kernel's `struct flock`: type, whence, start, length, pid."""
WHOLE_FILE = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class StateError(Exception):
    """The state directory cannot be used; the message names the file and what to do."""


class StateDirectory:
    """Reads and writes files below one directory, which it makes if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise StateError(f"cannot make the state directory {path}: {_why(error)}") from error

    def write(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        """Replace a file. A reader, or a crash, sees the old content or the new."""
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content, mode)
        except OSError as error:
            raise StateError(f"cannot write {target}: {_why(error)}") from error
        return target

    def remove(self, name: str) -> None:
        """Have no such file, if that can be."""
        with suppress(OSError):
            (self.path / name).unlink()

    def read(self, name: str) -> bytes | None:
        """The content, or None if there is no such file."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read {self.path / name}: {_why(error)}") from error

    def read_secret(self, name: str) -> bytes | None:
        """As `read`, for a file that nobody else may read; refused if others can."""
        content = self.read(name)
        if content is not None and (self.path / name).stat().st_mode & 0o077:
            raise StateError(f"{self.path / name} is readable by others: chmod 600 it, or remove it")
        return content

    def write_json(self, name: str, value: object, mode: int = 0o600) -> None:
        self.write(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), mode)

    def read_json(self, name: str, decode: Callable[[object], T], default: T) -> T:
        """The decoded content, `default` if there is no such file; StateError if it is damaged."""
        content = self.read(name)
        if content is None:
            return default
        try:
            return decode(json.loads(content))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateError(f"{self.path / name} is damaged ({error}): restore or remove it") from error

    def hold(self, name: str) -> int:
        """Lock for as long as the descriptor is open. Raises StateError if another process has it."""
        descriptor = self._open_lock(name)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, WHOLE_FILE)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StateError(
                f"another control plane uses {self.path}: stop it, or choose another --state-dir"
            ) from error
        return descriptor

    def is_held(self, name: str) -> bool:
        """Whether somebody holds the lock; asks without taking it. Raises StateError if that cannot be seen."""
        path = self._lock_path(name)
        try:
            with open(path, "rb") as file:
                answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, WHOLE_FILE)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StateError(f"cannot open {path}: {_why(error)}") from error
        return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _open_lock(self, name: str) -> int:
        path = self._lock_path(name)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StateError(f"cannot open {path}: {_why(error)}") from error

    def _lock_path(self, name: str) -> Path:
        return self.path / f".{name}.lock"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process at a time. Raises StateError where it cannot be."""
        descriptor = self._open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _why(error: OSError) -> str:
    """In words, with what to do where somebody else owns the directory."""
    remedy = (
        "; run this as root, or name a --state-dir of your own" if isinstance(error, PermissionError) else ""
    )
    return f"{error.strerror}{remedy}"
