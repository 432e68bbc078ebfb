"""Which build this is: two commits have the same version, and a worker goes on with the code that it began with.

What a process loads late must be of that build, too: an upgrade in place (`pip install -U`) replaces it beneath it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGES = ("agent", "redirect")


class CodeReplaced(OSError):
    """What lies on the disk is another build than this process's."""


@cache
def build_id() -> str:
    """Of this process, where it is asked early: as `on_disk`. Raises OSError."""
    return on_disk()


def on_disk() -> str:
    """Eight hexadecimal digits of what all sources of ours are, the same wherever they lie. Raises OSError.

    Takes 50 ms or so.
    """
    root = Path(__file__).parents[1]
    told = hashlib.blake2b(digest_size=4)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            told.update(f"{path.relative_to(root)}\0".encode())
            told.update(hashlib.blake2b(path.read_bytes()).digest())
    return told.hexdigest()


def require(build: str) -> None:
    """Raises CodeReplaced, OSError, where anything loaded now would be of another build than this one."""
    found = on_disk()
    if found != build:
        raise CodeReplaced(
            f"the code was replaced while this agent runs (build {build}, and {found} lies on the disk): restart it"
        )
