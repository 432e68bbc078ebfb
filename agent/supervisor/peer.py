"""Who is at the other end of a worker's socket, and where its sockets live: asked of the kernel, never of the worker.

SO_PEERCRED names the process that called listen(2), which a worker does anew when it starts (the control process
that bound the socket called it first). The number counts only for a process that holds that very socket.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SIOCGSKNS = 0x894C
_UCRED = struct.Struct("=iII")
_PROC = Path("/proc")


def listening_pid(sock: socket.socket, path: Path) -> int | None:
    """The process that listens at `path`, to which `sock` is connected; None where it cannot be seen from here."""
    sockets = _bound_at(path)
    pid, _, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if pid and _holds(pid, sockets):
        return int(pid)
    # A worker of a version that did not call listen(2) itself. The same path may be another's in another mount
    # namespace.
    own = os.readlink("/proc/self/ns/mnt")
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.readlink(entry / "ns" / "mnt") == own and _holds(int(entry.name), sockets):
                    return int(entry.name)
    return None


def is_at_home(pid: int, listeners: Iterable[tuple[socket.socket, str | None]], homes: Iterable[str]) -> bool:
    """Whether a worker lives in the namespaces that have these paths now.

    Both its listeners, each with the path of its namespace, and the threads that make its sockets: namespaces that
    were removed and made again since have the same paths, and nothing of it reaches the new ones.
    """
    try:
        inodes = {os.stat(path).st_ino for path in homes}
        return inodes <= _namespaces(_PROC / str(pid)) and all(
            _namespace_of(sock) == os.stat(path).st_ino for sock, path in listeners if path is not None
        )
    except OSError:
        # A name or the process is gone: what is not there is not its home.
        return False


def residents(module: str, homes: Iterable[str]) -> list[int]:
    """The processes that run a module of ours and have threads in every namespace that has one of these paths."""
    try:
        inodes = {os.stat(path).st_ino for path in homes}
    except FileNotFoundError:
        return []  # nobody can be where there is no namespace
    return [
        int(entry.name)
        for entry in _PROC.iterdir()
        if inodes and entry.name.isdigit() and _runs(entry, module) and inodes <= _namespaces(entry)
    ]


def _runs(process: Path, module: str) -> bool:
    try:
        return module.encode() in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it ended meanwhile


def _namespaces(process: Path) -> set[int]:
    """Of all its threads."""
    try:
        return {os.stat(task / "ns" / "net").st_ino for task in (process / "task").iterdir()}
    except OSError:
        return set()


def _namespace_of(sock: socket.socket) -> int:
    """The inode of the network namespace in which a socket was made."""
    fd = fcntl.ioctl(sock.fileno(), SIOCGSKNS)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def _bound_at(path: Path) -> frozenset[str]:
    """The unix sockets that have this path, as links of /proc/PID/fd show them."""
    rows = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return frozenset(f"socket:[{row[6]}]" for row in rows if len(row) == 8 and row[7] == str(path))


def _holds(pid: int, sockets: frozenset[str]) -> bool:
    try:
        with os.scandir(_PROC / str(pid) / "fd") as entries:
            return any(_target(entry.path) in sockets for entry in entries)
    except OSError:
        return False


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
