"""How many descriptors this process has open."""

from __future__ import annotations

import gc
import os


def open_descriptors() -> int:
    """Without those of sockets that nobody has any more: of tests before, which Python may close at any time."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
