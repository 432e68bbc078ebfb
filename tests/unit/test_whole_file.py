"""Files that are replaced whole, where there is no room for them: on a real disk that is full."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.controlplane.state_dir import StateDirectory, StateError
from agent.whole_file import write_whole


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk with a file of before, and no room."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)), check=True)
    try:
        (disk / "kept").write_bytes(b"of before")
        with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        yield disk
    finally:
        subprocess.run(("umount", str(disk)), check=True)


@pytest.mark.kernel
def test_a_full_disk_is_named_by_its_file_which_is_as_it_was(full: Path) -> None:
    for draft in (None, full / "draft"):
        with pytest.raises(OSError, match=r"No space left on device: '.*/kept'") as refused:
            write_whole(full / "kept", b"anew" * 1000, 0o600, draft)
        assert refused.value.errno == errno.ENOSPC
    assert (full / "kept").read_bytes() == b"of before"
    assert sorted(path.name for path in full.iterdir()) == ["filler", "kept"], "no draft is left"


@pytest.mark.kernel
def test_a_state_directory_that_is_full_keeps_what_it_has(full: Path) -> None:
    state = StateDirectory(full)
    with pytest.raises(StateError, match=r"cannot write .*/kept: No space left on device"):
        state.write("kept", b"anew" * 1000)
    assert state.read("kept") == b"of before"
    (full / "filler").unlink()
    state.write("kept", b"anew")
    assert state.read("kept") == b"anew"
