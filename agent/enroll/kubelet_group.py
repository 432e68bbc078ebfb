"""The control group of this node's kubelet, by which the programs know its connections from others of the node.

A socket belongs to the group of version 2 that its process was in when it was made. The number of a group is the inode
of its directory, which is looked up where init or the kubelet sees the hierarchy: a container sees only its own part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

KUBELET = "kubelet"
"""The name of its process (`/proc/PID/comm`)."""
HIERARCHIES = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
"""Where version 2 is mounted, alone or beside version 1."""


class NoKubeletGroup(Exception):
    """There is none that can be told from others of the node; the text says why and what to do."""


class KubeletGroup:
    """`path`: that of the last find, empty where there was none. `proc` and `root` (that of init) are for tests."""

    def __init__(self, proc: Path = Path("/proc"), root: Path = Path("/proc/1/root")) -> None:
        self.path = ""
        self._proc = proc
        self._root = root
        self._pid = 0

    def find(self) -> int:
        """The number of the group. Raises NoKubeletGroup."""
        self.path = ""
        if not self._is_kubelet(self._pid):
            self._pid = next((pid for pid in self._pids() if self._is_kubelet(pid)), 0)
        if not self._pid:
            raise NoKubeletGroup(
                "no process of the name `kubelet` is seen here: is it called otherwise (k3s, microk8s), or is this "
                "agent in a PID namespace of its own (hostPID)? `--host-traffic all` lets all of the node pass"
            )
        path = self._path_of(self._pid)
        if not path.strip("/"):
            raise NoKubeletGroup(
                f"the kubelet (process {self._pid}) has no control group of version 2 of its own, by which it could be "
                "told from others: start it as a unit of systemd, or choose another --host-traffic"
            )
        for root in (self._root, self._proc / str(self._pid) / "root"):
            for hierarchy in HIERARCHIES:
                directory = root / hierarchy / path.strip("/")
                if self._has(directory):
                    self.path = path
                    return directory.stat().st_ino
        raise NoKubeletGroup(
            f"the control group {path} of the kubelet (process {self._pid}) is not below {self._root / HIERARCHIES[0]}:"
            " is version 2 of control groups mounted on this node? Else choose another --host-traffic"
        )

    def _pids(self) -> Iterator[int]:
        return (int(name) for name in os.listdir(self._proc) if name.isdigit())

    def _is_kubelet(self, pid: int) -> bool:
        try:
            return bool(pid) and (self._proc / str(pid) / "comm").read_text().strip() == KUBELET
        except OSError:
            return False  # it has ended

    def _path_of(self, pid: int) -> str:
        """As the reader's own control group namespace shows it, without the way up to where both meet."""
        try:
            lines = (self._proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:
            return ""
        path = next((line[3:] for line in lines if line.startswith("0::")), "")
        while path.startswith("/.."):
            path = path[3:]
        return path

    def _has(self, directory: Path) -> bool:
        """Whether the kubelet is in the group there, and not one that merely has its path."""
        try:
            return str(self._pid) in (directory / "cgroup.procs").read_text().split()
        except OSError:
            return False
