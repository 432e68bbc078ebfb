"""Finds the network namespace of a pod that only its uid and its addresses are known of, in one look at /proc.

A process counts whose control groups are the pod's, in a namespace other than the node's, on an interface of which is
one of the pod's addresses: without that a foreign process that entered another pod's namespace would make that pod
this one. Of several namespaces the one of the oldest process is the sandbox's; containers may make their own. The
namespace of one pod is never that of another.

Where no process is left, a namespace that has a name will do, but only one that no pod's process is seen in. Reads the
host's /proc: run in the host's PID namespace.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.enroll import pod_cgroup
from agent.enroll.wish import PodInstance
from agent.model.address import IP
from redirect import locate, netns, routes, rt_rows, rtnetlink
from redirect.errors import PodNotFound

PROC = Path("/proc")
LOOKS = 3
"""A process may leave between the look and the open; its pod has others, or it is gone."""
_STARTED_FIELD = 19
"""Field 22 of /proc/PID/stat, counted from the third: the second may hold blanks."""


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """In whose namespace a pod is looked for. `started`: ticks since boot. Sorted, the sandbox's comes first."""

    started: int
    pid: int
    inode: int


class PodNamespaces:
    """One look, made when the first pod is asked for. `taken`: namespaces (inodes) of pods that are found already."""

    def __init__(self, taken: Collection[int] = (), proc: Path = PROC) -> None:
        self._taken = set(taken)
        self._proc = proc
        self._by_pod: dict[str, list[Process]] | None = None

    @contextmanager
    def held(self, pod: PodInstance) -> Iterator[Path]:
        """A path to the pod's namespace that stays the same one. Raises PodNotFound, OSError."""
        try:
            uid = pod_cgroup.plain(pod.uid)
        except ValueError as error:
            raise PodNotFound(str(error)) from error
        with ExitStack() as opened:
            path = self._of_a_process(uid, pod, opened)
            if path is None:
                path = self._named(pod, opened)
            self._taken.add(netns.inode(path))
            yield path

    def _of_a_process(self, uid: str, pod: PodInstance, opened: ExitStack) -> Path | None:
        """None when the pod has no process. Raises PodNotFound when none of them will do."""
        refused: dict[int, str] = {}
        for _ in range(LOOKS):
            left = False
            for process in sorted(self._processes().get(uid, ())):
                if process.inode in refused:
                    continue
                with ExitStack() as tried:
                    try:
                        path = tried.enter_context(locate.held(self._net(process.pid)))
                    except PodNotFound:
                        path = None
                    if path is None or self._read(process.pid) != (uid, process):
                        # It left, and whatever has its pid by now is another: everything is looked at anew.
                        left = True
                        break
                    reason = self._refusal(path, process.inode, pod)
                    if not reason:
                        opened.enter_context(tried.pop_all())
                        return path
                    refused[process.inode] = reason
            if not left:
                break
            self._by_pod = None
        if refused:
            raise PodNotFound("; ".join(refused.values()))
        return None

    def _named(self, pod: PodInstance, opened: ExitStack) -> Path:
        """The namespace with a name whose interface has the pod's address, for a pod without a process."""
        peopled = {process.inode for processes in self._processes().values() for process in processes}
        if not peopled:
            raise PodNotFound(
                f"no process of any pod is seen in {self._proc}: run the agent in the host's PID namespace (hostPID)"
            )
        ways = {route.ifindex for route in routes.routes() if _leads_to(route, pod.addresses)}
        found: list[tuple[bool, Path]] = []
        for name in sorted(netns.RUN_DIR.iterdir()) if netns.RUN_DIR.is_dir() else ():
            try:
                with locate.held(name) as path:
                    inode = netns.inode(path)
                    if inode in peopled or self._refusal(path, inode, pod):
                        continue
                    nsid = rtnetlink.nsid(path)
            except (PodNotFound, OSError):
                continue  # unmounted meanwhile, or no namespace
            ends = {
                row.ifindex
                for row in rtnetlink.links().values()
                if nsid is not None and row.peer_nsid == nsid
            }
            if ends:
                found.append((bool(ends & ways), name))
        # Namespaces of pods that are gone may have the same address: the node's own route says which is in use.
        best = [name for is_routed, name in found if is_routed] or [name for _, name in found]
        if len(best) != 1:
            listed = (
                f"{len(best)} namespaces have its address: {', '.join(map(str, best))}"
                if best
                else "no process"
            )
            raise PodNotFound(f"pod {pod.uid} is not found on this node: {listed}")
        return opened.enter_context(locate.held(best[0]))

    def _refusal(self, path: Path, inode: int, pod: PodInstance) -> str:
        """Why a namespace is not the pod's; empty when it is."""
        if inode in self._taken:
            return "the namespace of its processes is that of another pod"
        found = _addresses_in(path)
        if found.isdisjoint(pod.addresses):
            return f"its processes' namespace has {_join(found)}, not one of its own: {_join(pod.addresses)}"
        return ""

    def _processes(self) -> Mapping[str, list[Process]]:
        if self._by_pod is None:
            self._by_pod = {}
            for entry in os.listdir(self._proc):
                found = self._read(int(entry)) if entry.isdigit() else None
                if found is not None:
                    uid, process = found
                    self._by_pod.setdefault(uid, []).append(process)
        return self._by_pod

    def _read(self, pid: int) -> tuple[str, Process] | None:
        """A process of a pod outside of the node's own namespace; its pod is the outermost that it is in."""
        directory = self._proc / str(pid)
        try:
            pods = pod_cgroup.pods_of((directory / "cgroup").read_text())
            if not pods:
                return None
            inode = netns.inode(self._net(pid))
            if inode == netns.inode():
                return None
            stat = (directory / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None  # it ended
        started = int(stat.rpartition(")")[2].split()[_STARTED_FIELD])
        return pods[0], Process(started, pid, inode)

    def _net(self, pid: int) -> Path:
        return self._proc / str(pid) / "ns" / "net"


def _addresses_in(path: Path) -> frozenset[IP]:
    with netns.entered(path):
        found = frozenset(address for _, address in rt_rows.addresses())
    return frozenset(each for each in found if not each.is_loopback and not each.is_link_local)


def _leads_to(route: routes.Route, addresses: Iterable[IP]) -> bool:
    """Whether a route is for one of the addresses alone."""
    return route.network.num_addresses == 1 and route.network.network_address in addresses


def _join(addresses: Iterable[IP]) -> str:
    return ", ".join(sorted(map(str, addresses))) or "no address"
