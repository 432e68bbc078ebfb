"""Where everything of one instance is pinned: a directory for each layout, links beside them, and the lock.

    ROOT/HASH/prog_NAME, ROOT/HASH/map_NAME    programs and maps that belong together
    ROOT/links/...                             attachments: updated in place, so that there is never a gap

ROOT is /sys/fs/bpf/ztun/INSTANCE where /sys/fs/bpf is a bpffs, else a bpffs of our own under the run directory;
an instance that has one of its own keeps it, also when /sys/fs/bpf is mounted later.
Knows names and files only; nothing here decides what they are for.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redirect import lifetime, loader, netns, sys_bpf
from redirect.layout import LAYOUT_HASH
from redirect.lifetime import Mounts

BPFFS = Path("/sys/fs/bpf")
RUN_ROOT = Path("/run/ztun")
BPFFS_MAGIC = 0xCAFE4A11
LINKS = "links"


class Pins:
    """The pinned objects of an instance. Nothing is made before `mount`."""

    def __init__(
        self, instance: str, run_dir: Path | None = None, look: Callable[[], Mounts] = lifetime.look
    ) -> None:
        """`look` says what is mounted, here and for good."""
        self.run_dir = run_dir or RUN_ROOT / instance
        self._instance = instance
        self._look = look
        self._lasting: tuple[Path, bool] | None = None
        self._choose_root()

    def _choose_root(self) -> None:
        # systemd or another agent may have mounted /sys/fs/bpf since the last start. Pins there would be a second
        # set of programs beside the first, which drops what the first lets pass.
        self.is_private = is_bpffs(self.run_dir / "bpf") or not is_bpffs(BPFFS)
        self.root = self.run_dir / "bpf" if self.is_private else BPFFS / "ztun" / self._instance
        self.generation = self.root / LAYOUT_HASH
        self.links = self.root / LINKS

    def mount(self) -> None:
        """Makes the directories; mounts a bpffs of our own where the machine has none.

        Looks anew at what there is: a bpffs may have been unmounted since, or its directories removed. Raises
        WouldNotLast, OSError.
        """
        self._choose_root()
        self.require_lasting()
        self.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.mkdir(parents=True, exist_ok=True)
        if self.is_private and not is_bpffs(self.root):
            # mount -t bpf bpf RUN_DIR/bpf -o mode=0700
            netns.call("mount", b"bpf", bytes(self.root), b"bpf", 0, b"mode=0700")
        self.links.mkdir(exist_ok=True)

    def require_lasting(self) -> None:
        """Raises WouldNotLast unless pins that are put there now outlive this process."""
        is_mounted = not self.is_private or is_bpffs(self.root)
        if self._lasting != (self.root, is_mounted):
            lifetime.require_pins(self.root, self._look(), is_mounted=is_mounted)
            self._lasting = self.root, is_mounted

    def program_ids(self) -> frozenset[int]:
        """Ids of the programs that are pinned here, of every layout."""
        paths = (path for directory in self.generations() for path in directory.glob("prog_*"))
        return frozenset(map(_program_id, paths))

    def unmount(self) -> None:
        """Removes what is left of the directories. Pins in them must be gone."""
        if self.is_private and is_bpffs(self.root):
            netns.call("umount2", bytes(self.root), netns.MNT_DETACH)  # umount RUN_DIR/bpf
        if self.root.is_dir():
            self.root.rmdir()
        if not self.is_private and self.root.parent.is_dir() and not any(self.root.parent.iterdir()):
            self.root.parent.rmdir()

    @property
    def exists(self) -> bool:
        """Whether anything of this instance is pinned, of whatever layout, or a place is made for it."""
        return self.root.is_dir()

    @property
    def is_complete(self) -> bool:
        """Whether programs and maps of this layout are there, so that no compiler has to run."""
        return loader.is_complete(self.generation)

    def generations(self) -> list[Path]:
        """Directories of every layout, this one's or another's."""
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and path.name != LINKS)

    def staging(self) -> Path:
        """An empty directory to load into; `adopt` makes it the generation."""
        path = self.root / f"{LAYOUT_HASH}-loading"
        discard(path)
        path.mkdir()
        return path

    @property
    def recovered(self) -> Path:
        """Where maps are pinned that only attached programs hold: one more older generation."""
        return self.root / "attached"

    def adopt(self, staging: Path) -> None:
        """The loaded directory takes its place; one of the same layout that lacks pins steps aside."""
        if self.generation.exists():
            aside = self.root / f"{LAYOUT_HASH}-broken"
            discard(aside)
            self.generation.rename(aside)
        staging.rename(self.generation)

    def open_program(self, name: str) -> int:
        return sys_bpf.obj_get(self.generation / f"prog_{name}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time: waits for another that is at work."""
        self.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = self._lock()
        try:
            yield
        finally:
            os.close(fd)

    def remove_files(self) -> None:
        """The lock too, by the one who holds it, as the last thing. Whoever waits for it makes a new one."""
        self.loader_record.unlink(missing_ok=True)
        self.tags.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)

    @property
    def loader_record(self) -> Path:
        """What was said when programs did not load."""
        return self.run_dir / "loader-failed.log"

    @property
    def tags(self) -> Path:
        """Which code of each program was built here."""
        return self.run_dir / "programs.json"

    @property
    def _lock_path(self) -> Path:
        return self.run_dir / "redirect.lock"

    def _is_lock_file(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def _lock(self) -> int:
        while True:
            # Not for writing: one that exists can be had in a directory that became read-only, too.
            fd = os.open(self._lock_path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                # A lock on a file that was removed meanwhile excludes nobody.
                if self._is_lock_file(fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def discard(directory: Path) -> None:
    """Removes a directory of pins. What is attached or held open lives on in the kernel."""
    if directory.is_dir():
        for path in list(directory.iterdir()):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        directory.rmdir()


def _program_id(path: Path) -> int:
    fd = sys_bpf.obj_get(path)
    try:
        return sys_bpf.prog_info(fd).id
    finally:
        os.close(fd)


def is_bpffs(path: Path) -> bool:
    buffer = ctypes.create_string_buffer(256)
    try:
        netns.call("statfs", bytes(path), buffer)
    except OSError:
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF == BPFFS_MAGIC
