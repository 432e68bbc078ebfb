"""A lab's directory is its claim on the name: after `down` nothing of it is left, whatever was mounted in it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from agent.lab.journal import Journal

LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")
def test_what_a_killed_agent_left_mounted_goes_with_the_lab(tmp_path: Path) -> None:
    journal = Journal("crashed", tmp_path)
    journal.claim()
    for place in ("node-a/bpf", "node-a/bpf/inner"):  # one in the other: the inner one has to go first
        mounted = journal.directory / place
        mounted.mkdir(parents=True)
        assert LIBC.mount(b"tmpfs", bytes(mounted), b"tmpfs", 0, None) == 0
        (mounted / "held").touch()
    journal.erase()
    assert not journal.exists
    assert str(journal.directory) not in Path("/proc/self/mounts").read_text()
    journal.claim()  # the name is free
