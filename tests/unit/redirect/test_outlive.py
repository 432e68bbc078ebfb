"""How processes leave the control groups of a container: into the root of each hierarchy, where init sees it."""

from __future__ import annotations

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
    return tmp_path


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
