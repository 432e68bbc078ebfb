"""What is kept between runs, under ~/.cache/ztun-kernels: of each kernel its image and the modules that are needed.

A run that was broken off goes on where it was: what is complete has its final name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.kernels.initramfs import MODULES, archive, modules_of
from tests.kernels.packages import NotToBeHad, Suite, fetched
from tests.kernels.root import image
from tests.kernels.table import Deb, Kernel, release_of


@dataclass(frozen=True, slots=True)
class Kept:
    """A kernel that can be booted. `note` says why it is not the pinned one, where it is not."""

    debs: tuple[Deb, ...]
    note: str
    kernel: Path
    modules: Path

    @property
    def release(self) -> str:
        return release_of(self.debs)

    def initramfs(self, path: Path) -> Path:
        """Written there anew."""
        names = (self.modules / "order").read_text().split()
        path.write_bytes(archive((name, (self.modules / name).read_bytes()) for name in names))
        return path


class Store:
    """The cache of this user, or another directory."""

    def __init__(self, directory: Path | None = None) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.directory = directory or Path(home) / "ztun-kernels"

    def suite(self, name: str) -> Suite:
        return Suite(name, self.directory / "apt" / name)

    def has(self, kernel: Kernel) -> bool:
        return self._place(kernel).exists()

    def kernel(self, kernel: Kernel) -> Kept:
        """Fetched where it is not there yet. Raises NotToBeHad."""
        place = self._place(kernel)
        if not place.exists():
            with self.alone():
                if not place.exists():
                    self._fetch(kernel, place)
        said = json.loads((place / "of.json").read_text())
        debs = tuple(Deb(**deb) for deb in said["debs"])
        return Kept(debs, said["note"], place / "vmlinuz", place / "modules")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No two fetch at once: who comes second finds it there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def root(self) -> Path:
        """The root file system. Raises NotToBeHad."""
        with self.alone():
            return image(self.directory)

    def _fetch(self, kernel: Kernel, place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.directory) as draft:
            made = self._make(kernel, Path(draft))
            for old in self.directory.glob(f"{kernel.name}-*"):
                old.rename(Path(draft) / f"old-{old.name}")
            made.rename(place)

    def _place(self, kernel: Kernel) -> Path:
        text = json.dumps([[asdict(deb) for deb in kernel.debs], MODULES])
        return self.directory / f"{kernel.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _make(self, kernel: Kernel, draft: Path) -> Path:
        debs, files, note = fetched(kernel, self.suite(kernel.suite), draft / "debs")
        tree, made = draft / "tree", draft / "made"
        for file in files:
            subprocess.run(["dpkg-deb", "-x", str(file), str(tree)], check=True)
            file.unlink()
        release = release_of(debs)
        if not (tree / "lib").exists():
            # Newer packages know /usr/lib alone.
            (tree / "lib").symlink_to("usr/lib")
        (made / "modules").mkdir(parents=True)
        names = []
        for name, content in modules_of(tree, release):
            (made / "modules" / name).write_bytes(content)
            names.append(name)
        (made / "modules" / "order").write_text("".join(f"{name}\n" for name in names))
        image = _image(tree, release)
        image.rename(made / "vmlinuz")
        said = {"debs": [asdict(deb) for deb in debs], "note": note}
        (made / "of.json").write_text(json.dumps(said, indent=2) + "\n")
        return made


def _image(tree: Path, release: str) -> Path:
    places = (
        f"boot/vmlinuz-{release}",
        f"lib/modules/{release}/vmlinuz",
        f"usr/lib/modules/{release}/vmlinuz",
    )
    for place in places:
        if (tree / place).exists():
            return tree / place
    raise NotToBeHad(f"the packages of {release} have no vmlinuz: looked at {', '.join(places)}")
