"""Which build this is: two commits have the same version, and a worker goes on with the code that it began with."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGES = ("agent", "redirect")


@cache
def build_id() -> str:
    """Eight hexadecimal digits of what all sources of ours are, the same wherever they lie. Raises OSError."""
    root = Path(__file__).parents[1]
    told = hashlib.blake2b(digest_size=4)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            told.update(f"{path.relative_to(root)}\0".encode())
            told.update(hashlib.blake2b(path.read_bytes()).digest())
    return told.hexdigest()
