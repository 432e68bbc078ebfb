"""Another commit of this repository, installed beside the tree: what `--against REV` measures.

Files and environment of a commit are kept in the cache directory by its hash, so that a second run has them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ztun-bench"


class NoSuchBuild(Exception):
    """The commit does not exist, or cannot be installed; the text says which and why."""


def install(revision: str, root: Path, tell: Callable[[str], None], cache: Path = CACHE) -> tuple[str, ...]:
    """The `ztun` command of a commit, as `git rev-parse` knows it, installed by that commit's own `scripts/setup`."""
    commit = commit_of(revision, root)
    there = cache / commit
    command = there / ".venv" / "bin" / "ztun"
    if not command.exists():
        tell(f"installing {commit[:12]} into {there}")
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir(parents=True)
        archive = cache / f"{commit}.tar"
        _run(["git", "archive", "--output", str(archive), commit], root, revision)
        _run(["tar", "-x", "-f", str(archive), "-C", str(there)], root, revision)
        archive.unlink()
        _run(["scripts/setup"], there, revision)
    # From its own directory: builds of before November 2026 start workers from the code they find where they are.
    return ("env", "--chdir", str(there), str(command))


def commit_of(revision: str, root: Path) -> str:
    """Its whole hash. Raises NoSuchBuild."""
    return _run(["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], root, revision)


def _run(command: list[str], where: Path, revision: str) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip() or f"exit status {done.returncode}"
        raise NoSuchBuild(f"--against {revision}: `{' '.join(command)}`: {why}")
    return done.stdout.strip()
