"""Network namespaces: create, enter, remove, and tell two of them apart.

A namespace is a bind mount under /run/netns, so that it outlives every process and `ip netns` shows it.
Entering is per thread: sockets and netlink handles made inside stay there, the thread comes back.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RUN_DIR = Path("/run/netns")
INIT = Path("/proc/1/ns/net")
INIT_MOUNTS = Path("/proc/1/ns/mnt")
OWN = Path("/proc/thread-self/ns/net")
MOST = "/proc/sys/user/max_net_namespaces"
"""How many the machine may have."""

CLONE_FS, CLONE_NEWNS, CLONE_NEWNET = 0x200, 0x20000, 0x40000000
MS_REMOUNT, MS_BIND, MS_REC, MS_SHARED = 0x20, 0x1000, 0x4000, 0x100000
MNT_DETACH = 2
SO_NETNS_COOKIE = 71

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class NamespaceId:
    """What tells a namespace from every other since boot. The kernel uses inodes again, cookies never.

    `cookie` is 0 before Linux 5.14.
    """

    inode: int
    cookie: int


def path_of(name: str) -> Path:
    return RUN_DIR / name


def inode(path: Path = OWN) -> int:
    """What identifies a namespace on this machine; by default that of the calling thread."""
    return path.stat().st_ino


def own_id() -> NamespaceId:
    """The namespace of the calling thread."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            raw = bytes(8)
    (cookie,) = struct.unpack("=Q", raw)
    return NamespaceId(inode(), cookie)


def is_namespace(path: Path) -> bool:
    """Whether a name under /run/netns is mounted. A crash can leave the plain file of it behind."""
    # The parent of a mount point is on another device than the mount itself.
    return path.exists() and path.stat().st_dev != path.parent.stat().st_dev


def ensure(name: str, *, by_init: bool = False) -> Path:
    """`ip netns add NAME`, unless it is there; `by_init`: mounted where init sees it. Raises OSError."""
    path = path_of(name)
    if is_namespace(path):
        return path

    def unshare_and_mount() -> None:
        unshare()
        _mount(OWN, path)

    apart(unshare_and_mount, by_init=by_init)
    return path


def unshare() -> None:
    """Moves the calling thread into a new namespace for good. Raises OSError."""
    try:
        call("unshare", CLONE_NEWNET)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(error.errno, f"no further network namespace may be made: raise {MOST}") from error


def create(name: str) -> Path:
    """`ip netns add NAME`. FileExistsError when the name is taken: nobody else's namespace is adopted."""
    RUN_DIR.mkdir(exist_ok=True)
    os.close(os.open(path_of(name), os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    return ensure(name)


def remove(name: str) -> None:
    """`ip netns del NAME`; a name that does not exist is nothing to do. Sockets inside keep it alive, unnamed."""
    path = path_of(name)
    try:
        call("umount2", bytes(path), MNT_DETACH)
    except OSError as error:
        # EINVAL: a plain file, left by a crash between its creation and the mount.
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
    path.unlink(missing_ok=True)


def enter(path: Path) -> None:
    """Moves the calling thread into a namespace for good; `exec` after it to run a command there."""
    target = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        call("setns", target, CLONE_NEWNET)
    finally:
        os.close(target)


@contextmanager
def watched(paths: Iterable[Path]) -> Iterator[Callable[[], list[str]]]:
    """Gives a look at who is in these namespaces, by name and pid, also when their names are gone meanwhile.

    One thread is enough to be in, and a namespace lives as long as anybody is.
    """
    opened = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths if is_namespace(path)]
    try:
        # Held open, so that no other namespace gets their numbers.
        inodes = {os.fstat(fd).st_ino for fd in opened}
        yield lambda: sorted(set(_residents(inodes)))
    finally:
        for fd in opened:
            os.close(fd)


def _residents(inodes: Collection[int]) -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*/ns/net"):
        try:
            if path.stat().st_ino in inodes:
                process = path.parents[3]
                yield f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # it ended meanwhile, or may not be looked at: then it is none of ours


class HeldNamespace:
    """A namespace that has a name, kept open: it lives on when the name is taken away. Close it."""

    def __init__(self, name: str) -> None:
        """Raises OSError."""
        self.name = name
        self._fd = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        self._inode = os.fstat(self._fd).st_ino

    def claim(self) -> bool:
        """Whether it is this holder's alone from here on until it closes it; False: it is another's."""
        try:
            # On the namespace itself: a lock file can be removed, or be looked for in another place.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def path(self) -> Path:
        """Leads there, whatever the name does, for this process."""
        return Path(f"/proc/self/fd/{self._fd}")

    @property
    def has_name(self) -> bool:
        path = path_of(self.name)
        return is_namespace(path) and inode(path) == self._inode

    def restore_name(self, *, by_init: bool = False) -> bool:
        """`ip netns attach` of what is held, if the name leads elsewhere or nowhere; whether it did. Raises OSError."""
        if self.has_name:
            return False

        def mount_again() -> None:
            remove(self.name)
            _mount(self.path, path_of(self.name))

        apart(mount_again, by_init=by_init)
        return True

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def entered(path: Path) -> Iterator[None]:
    """The calling thread inside a namespace. No await may happen inside: the thread is not itself."""
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        try:
            yield
        finally:
            call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


def call(function: str, *arguments: object) -> None:
    """A libc function that answers 0 or sets errno. Raises OSError."""
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def apart(work: Callable[[], None], *, by_init: bool = False) -> None:
    """In a thread of its own: unshare() and setns() change the thread that calls them. Raises OSError.

    `by_init`: in the mount namespace of init.
    """
    failure: list[OSError] = []

    def run() -> None:
        try:
            if by_init:
                _enter_init_mounts()
            work()
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _enter_init_mounts() -> None:
    """Moves the calling thread into the mount namespace of init, for good."""
    target = os.open(INIT_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Threads share root and working directory, which a mount namespace has of its own.
        call("unshare", CLONE_FS)
        call("setns", target, CLONE_NEWNS)
    finally:
        os.close(target)


def _mount(namespace: Path, path: Path) -> None:
    _share_run_dir()
    path.touch(mode=0o444)
    try:
        call("mount", bytes(namespace), bytes(path), b"none", MS_BIND, None)
    except OSError:
        path.unlink()
        raise


def _share_run_dir() -> None:
    """/run/netns as a shared mount, so that other mount namespaces see new entries, as iproute2 does."""
    RUN_DIR.mkdir(exist_ok=True)
    try:
        call("mount", b"", bytes(RUN_DIR), b"none", MS_SHARED | MS_REC, None)
    except OSError:
        call("mount", bytes(RUN_DIR), bytes(RUN_DIR), b"none", MS_BIND | MS_REC, None)
        call("mount", b"", bytes(RUN_DIR), b"none", MS_SHARED | MS_REC, None)
