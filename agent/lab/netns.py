"""Network namespaces of the lab: create, enter, remove, and who still lives in one.

A namespace is a bind mount under /run/netns, so that `ip netns` shows it too. Entering is per thread: the
context manager puts the calling thread back, and a process or socket started inside stays inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

RUN_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_SHARED = 0x1000, 0x4000, 0x100000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> Path:
    return RUN_DIR / name


def create(name: str) -> None:
    """`ip netns add NAME`. FileExistsError when the name is taken; the caller keeps its own namespace."""
    _share_run_dir()
    path = path_of(name)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    failure: list[OSError] = []

    def unshare_and_mount() -> None:
        try:
            _call("unshare", CLONE_NEWNET)
            _call("mount", b"/proc/thread-self/ns/net", bytes(path), b"none", MS_BIND, None)
        except OSError as error:
            failure.append(error)

    # A thread of its own: unshare() changes the thread that calls it, for good.
    thread = threading.Thread(target=unshare_and_mount)
    thread.start()
    thread.join()
    if failure:
        path.unlink()
        raise failure[0]


def remove(name: str) -> None:
    """`ip netns del NAME`; a name that does not exist is nothing to do."""
    path = path_of(name)
    try:
        _call("umount2", bytes(path), MNT_DETACH)
    except OSError as error:
        # EINVAL: a plain file, left by a crash between its creation and the mount.
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
    path.unlink(missing_ok=True)


@contextmanager
def entered(path: str | Path) -> Iterator[None]:
    """The calling thread inside a namespace. Sockets and processes made here stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        try:
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


def enter(path: str | Path) -> None:
    """Moves the calling thread into a namespace for good; `exec` after it to run a command there."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", fd, CLONE_NEWNET)
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


def _share_run_dir() -> None:
    """/run/netns as a shared mount, so that other mount namespaces see new entries, as iproute2 does."""
    RUN_DIR.mkdir(exist_ok=True)
    try:
        _call("mount", b"", bytes(RUN_DIR), b"none", MS_SHARED | MS_REC, None)
    except OSError:
        _call("mount", bytes(RUN_DIR), bytes(RUN_DIR), b"none", MS_BIND | MS_REC, None)
        _call("mount", b"", bytes(RUN_DIR), b"none", MS_SHARED | MS_REC, None)


def _call(function: str, *arguments: object) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
