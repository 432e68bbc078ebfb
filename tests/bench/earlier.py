"""Another commit of this repository, installed beside the tree: what `--against REV` measures.

Files and environment of a commit are kept in the cache directory by its hash and form, so that a second run has them.
A compiled tree is measured against a compiled one, where that commit could be compiled already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from agent.form import Form

SETUP, COMPILES = "scripts/setup", "--compiled"
PURE = Form()
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ztun-bench"


class NoSuchBuild(Exception):
    """The commit does not exist, or cannot be installed; the text says which and why."""


def install(
    revision: str, root: Path, tell: Callable[[str], None], cache: Path = CACHE, *, like: Form = PURE
) -> tuple[str, ...]:
    """The `ztun` command of a commit, as `git rev-parse` knows it, installed by that commit's own `scripts/setup`.

    `like`: in this form, where that commit has it.
    """
    commit = commit_of(revision, root)
    has_form = like.modules and COMPILES in _run(["git", "show", f"{commit}:{SETUP}"], root, revision)
    flags = [COMPILES] if has_form else []
    there = cache / (f"{commit}-compiled" if flags else commit)
    command = there / ".venv" / "bin" / "ztun"
    if not command.exists():
        tell(f"installing {commit[:12]} into {there}")
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir(parents=True)
        archive = cache / f"{commit}.tar"
        _run(["git", "archive", "--output", str(archive), commit], root, revision)
        _run(["tar", "-x", "-f", str(archive), "-C", str(there)], root, revision)
        archive.unlink()
        _run([SETUP, *flags], there, revision)
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
