"""Whose pod's a process is, by the names of its control groups: pure reading of /proc/PID/cgroup.

The kubelet makes a group for each pod, and runtimes one for each container in it, in the forms of two drivers:

    cgroupfs  0::/kubepods/burstable/podUID/CONTAINER
    systemd   0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-CONTAINER.scope

with `_` for the uid's `-` in the second. Groups may lie below another root (`--cgroup-root`, a node that is a container
itself), be seen relative to the reader's (`/../..`), or carry a container's own groups further down.
"""

from __future__ import annotations

import re

_POD = re.compile(
    r"(?:^|[/.:_-])pod([0-9a-f]{8})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{12})(?![0-9a-f])"
)
_UID = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})")


def plain(uid: str) -> str:
    """A pod's uid without its dashes, by which two forms of it compare. Raises ValueError for what is none."""
    found = _UID.fullmatch(uid.lower())
    if found is None:
        raise ValueError(f"{uid!r} is no uid of a pod")
    return "".join(found.groups())


def pods_of(cgroup: str) -> tuple[str, ...]:
    """Plain uids of the pods that the process of a /proc/PID/cgroup is in, the outermost first.

    Empty where its lines do not agree: then whoever wrote them is not the kubelet.
    """
    unified: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        pods = tuple("".join(found) for found in _POD.findall(path))
        if pods:
            (unified if (number, controllers) == ("0", "") else others).append(pods)
    # On a hybrid node the unified group may be the root's, with the pod in those of version 1.
    told = {*unified, *others}
    return told.pop() if len(told) == 1 else ()
