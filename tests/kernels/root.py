"""The root file system that kernels under test run on: the packages of this machine that ztun needs, and no more.

Made of what dpkg says those packages have, without network and in seconds; the tree under test and its .venv come from
this machine as they are. Kept under a name that says which packages it was made of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.kernels.packages import NotToBeHad

WANTED = (
    *(
        "python3",
        "python3-bpfcc",
        "iproute2",
        "nftables",
        "kmod",
        "procps",
        "bash",
        "coreutils",
        "dash",
        "grep",
        "sed",
    ),
    *(
        "libc-bin",
        "util-linux",
        "mount",
        "base-files",
        "hostname",
        "libpython3.11-stdlib",
        "gzip",
        "findutils",
    ),
)
LEFT_OUT = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info", "/usr/share/i18n")
ACCOUNTS = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"}
GROUPS = {"etc/group": "root:x:0:\nnogroup:x:65534:\n"}
SPARE_BYTES = 64 << 20
PYTHON = ("usr/lib/python3", "usr/lib/python3.11")
UNPACKED = ("installed", "triggers-pending", "triggers-awaited")
"""States of dpkg in which a package is there: whoever installs something else leaves its triggers for a moment."""
FORM = "bytecode"
"""Of the image, beside what it is made of: another one is made anew."""


def image(cache: Path) -> Path:
    """The file of it, made where it is not there yet. Raises NotToBeHad."""
    packages = closure(WANTED)
    key = hashlib.sha256("\n".join([FORM, *sorted(packages)]).encode()).hexdigest()[:16]
    path = cache / f"root-{key}.ext4"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as draft:
            _make(Path(draft), sorted(name.partition("=")[0] for name in packages))
            (Path(draft) / "root.ext4").rename(path)
        for old in cache.glob("root-*.ext4"):
            if old != path:
                old.unlink()
    return path


def _make(draft: Path, packages: list[str]) -> None:
    root = draft / "root"
    # A bookworm has /bin, /lib and /sbin as links.
    for folder in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    listed = subprocess.run(
        ["dpkg-query", "-L", *packages], capture_output=True, text=True, check=True
    ).stdout
    paths = {line for line in listed.splitlines() if line.startswith("/") and not line.startswith(LEFT_OUT)}
    for path in sorted(paths):
        _copy(Path(path), root)
    _compile(root)
    for name, text in (ACCOUNTS | GROUPS).items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    for folder in ("proc", "sys", "dev", "run", "tmp", "root", "var/tmp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(["ldconfig", "-r", str(root)], check=True)
    size = sum(path.lstat().st_size for path in root.rglob("*"))
    blocks = (size + size // 4 + SPARE_BYTES) // 1024
    subprocess.run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-d",
            str(root),
            str(draft / "root.ext4"),
            f"{blocks}k",
        ],
        check=True,
        capture_output=True,
        env=os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )
    shutil.rmtree(root)


def _compile(root: Path) -> None:
    """Bytecode, which no package has: it is made where one is installed. Without it each process of the guest would
    compile the standard library first, by an emulated processor."""
    compileall = (sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    places = [str(root / place) for place in PYTHON if (root / place).exists()]
    # Sources of another Python (lib2to3) do not compile, and nobody imports them.
    subprocess.run([*compileall, "-s", str(root), "-p", "/", *places], check=False, capture_output=True)


def _copy(source: Path, root: Path) -> None:
    """Folders are made as they come; what was removed from this machine is passed over."""
    target = root / source.relative_to("/")
    if source.is_symlink():
        if not target.is_symlink() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.readlink(source))
    elif source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif source.is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def closure(wanted: Iterable[str]) -> set[str]:
    """The installed ones among these and what they depend on, as NAME=VERSION. Raises NotToBeHad."""
    form = "${Package}\\t${Version}\\t${db:Status-Status}\\t${Pre-Depends}, ${Depends}\\t${Provides}\\n"
    done = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True)
    versions: dict[str, str] = {}
    depends: dict[str, list[str]] = {}
    providers: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, version, status, needed, provided = line.split("\t")
        if status in UNPACKED:
            versions[name], depends[name] = version, _names(needed)
            providers |= dict.fromkeys(_names(provided), name)
    absent = [name for name in wanted if name not in versions]
    if absent:
        raise NotToBeHad(
            f"the root file system is made of packages of this machine: apt-get install {' '.join(absent)}"
        )
    found: set[str] = set()
    left = list(wanted)
    while left:
        name = left.pop()
        name = name if name in versions else providers.get(name, "")
        if name and name not in found:
            found.add(name)
            left += depends[name]
    return {f"{name}={versions[name]}" for name in found}


def _names(text: str) -> list[str]:
    """The names in a field of dependencies: of alternatives each, as those that are not installed do not count."""
    return [
        part.strip().partition(" ")[0].partition(":")[0]
        for part in text.replace("|", ",").split(",")
        if part.strip()
    ]
