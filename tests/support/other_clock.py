"""Processes whose time of day is not this machine's: a library in front of libc's clocks. No other clock is changed."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


@contextmanager
def other_clock(place: Path) -> Iterator[Callable[[float], None]]:
    """For what is started within, and what that starts; the answer sets by how many seconds their clock is ahead."""
    library, ahead = place / "other_clock.so", place / "ahead"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)], check=True)

    def set_clock(ahead_s: float) -> None:
        with ahead.open("r+b" if ahead.exists() else "wb") as file:
            file.write(struct.pack("=q", int(ahead_s)))

    set_clock(0)
    place.chmod(0o755)
    before = os.environ.copy()
    os.environ.update(LD_PRELOAD=str(library), TEST_CLOCK=str(ahead))
    try:
        yield set_clock
    finally:
        os.environ.clear()
        os.environ.update(before)
