"""How processes leave the control groups of a container: into the root of each hierarchy, where init sees it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from redirect import outlive

MOUNTS = """\
20 1 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
21 20 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
22 20 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/agent,name=systemd
23 20 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
24 20 0:32 /other /mnt/part rw,relatime - cgroup cgroup rw,pids
25 20 0:33 / /mnt/covered rw,relatime - cgroup cgroup rw,memory
"""


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """/proc of an init process with hierarchies of both versions, of which one is covered by another mount."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    for name in ("cpu,cpuacct", "systemd", "unified"):
        root = tmp_path / "root/sys/fs/cgroup" / name
        root.mkdir(parents=True)
        (root / "cgroup.procs").touch()
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns/cgroup").write_text("init's")
    return tmp_path


@pytest.fixture(autouse=True)
def entered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """In which namespaces somebody has gone, by which thread: that takes rights, and none of init's are here."""
    found = []

    def call(name: str, fd: int, kind: int) -> None:
        assert (name, kind) == ("setns", outlive.CLONE_NEWCGROUP)
        found.append((threading.get_ident(), os.pread(fd, 100, 0).decode()))

    monkeypatch.setattr("redirect.netns.call", call)
    return found


def groups(monkeypatch: pytest.MonkeyPatch, **paths: str) -> None:
    found = {frozenset(name.split("+")) - {"unified"}: path for name, path in paths.items()}
    monkeypatch.setattr(outlive, "groups_of", lambda _: found)


def told(init: Path, name: str) -> str:
    return (init / "root/sys/fs/cgroup" / name / "cgroup.procs").read_text()


def test_each_hierarchy_is_left_that_can_be_seen(init: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups(
        monkeypatch,
        **{"cpu+cpuacct": "/pod/one", "name=systemd": "/pod/one", "unified": "/x", "pids": "/pod/one"},
    )
    outlive.leave([77], init)
    assert [told(init, name) for name in ("cpu,cpuacct", "systemd", "unified")] == ["77"] * 3


def test_a_hierarchy_that_is_not_there_is_no_matter(init: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups(monkeypatch, memory="/pod/one", unified="/x")
    outlive.leave([77], init)
    assert told(init, "unified") == "77" and not told(init, "systemd")


def test_where_there_is_none_it_says_so(init: Path) -> None:
    (init / "mountinfo").write_text("20 1 0:28 / / rw,relatime - ext4 /dev/sda rw\n")
    with pytest.raises(FileNotFoundError, match="no control groups are mounted where init sees them"):
        outlive.leave([77], init)


def test_it_is_done_where_init_is_and_this_thread_stays_where_it_was(
    init: Path, monkeypatch: pytest.MonkeyPatch, entered: list[tuple[int, str]]
) -> None:
    """In a namespace of its own, as a container has it, nobody may move a process over its edge (`nsdelegate`)."""
    groups(monkeypatch, unified="/x")
    wrote, write = [], outlive._write

    def noted(file: Path, pid: int) -> None:
        wrote.append((threading.get_ident(), list(entered)))
        write(file, pid)

    monkeypatch.setattr(outlive, "_write", noted)
    outlive.leave([77], init)
    [(thread, before)] = wrote
    assert before == [(thread, "init's")] and thread != threading.get_ident()
    assert told(init, "unified") == "77"
