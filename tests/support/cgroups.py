"""Processes in control groups as the kubelet makes them, for pods that are no more than a network namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redirect.netns import entered

ROOT = Path("/sys/fs/cgroup")
ROOT_GROUP = 1
CONTAINER = "c0ffee" * 10 + "beef"


def hierarchy() -> Path:
    """Where groups of version 2 are."""
    return ROOT / "unified" if (ROOT / "unified").is_dir() else ROOT


@contextmanager
def process_of(uid: str, netns: Path, root: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of pod `uid` in a network namespace; `root`: a group of this test alone."""
    group = hierarchy() / root / "kubepods" / "besteffort" / f"pod{uid}" / CONTAINER
    group.mkdir(parents=True)
    with entered(netns):
        process = subprocess.Popen(["sleep", "3600"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        yield process
    finally:
        process.kill()
        process.wait()
        for path in (group, *group.parents):
            if path == hierarchy():
                break
            try:
                path.rmdir()
            except OSError:
                break  # other pods of the test


def own_group() -> int:
    """The number of this process's group of version 2, as bpf_skb_cgroup_id() tells it; the root's if it has none."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return (hierarchy() / path.strip("/")).stat().st_ino if path != "/" else ROOT_GROUP


@contextmanager
def container(*pids: int) -> Iterator[Path]:
    """Processes in a control group of their own, in the first hierarchy there is."""
    group = hierarchy() / f"ztun-test-{os.getpid()}"
    group.mkdir()
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (hierarchy() / "cgroup.procs").write_text(pid)
        group.rmdir()
