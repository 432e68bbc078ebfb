"""Network namespaces of the lab: create, enter, remove, and who still lives in one.

A namespace is a bind mount under /run/netns, so that `ip netns` shows it too. Entering is per thread: the
context manager puts the calling thread back, and a process or socket started inside stays inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from redirect.netns import CLONE_NEWNET, RUN_DIR, call, ensure, entered, path_of, remove

__all__ = ["create", "enter", "entered", "path_of", "remove", "residents", "write_sysctl"]


def create(name: str) -> None:
    """`ip netns add NAME`. FileExistsError when the name is taken; the caller keeps its own namespace."""
    RUN_DIR.mkdir(exist_ok=True)
    os.close(os.open(path_of(name), os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    ensure(name)


def enter(path: Path) -> None:
    """Moves the calling thread into a namespace for good; `exec` after it to run a command there."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        call("setns", fd, CLONE_NEWNET)
    finally:
        os.close(fd)


def residents(paths: Iterable[Path]) -> list[psutil.Process]:
    """Processes whose main thread lives in one of the namespaces."""
    inodes = {path.stat().st_ino for path in paths if path.exists()}
    found = []
    for process in psutil.process_iter():
        try:
            if os.stat(f"/proc/{process.pid}/ns/net").st_ino in inodes:
                found.append(process)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def write_sysctl(name: str, value: object) -> None:
    """`sysctl -w NAME=VALUE` in the namespace of the calling thread; slashes between the parts."""
    Path("/proc/sys", name).write_text(f"{value}\n")
