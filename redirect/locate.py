"""Finds a pod: by a path to its network namespace, by a process of it, or by its interface here.

What is found is judged in `place`. Call it in the node's network namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from redirect import neighbours, rtnetlink, view
from redirect.errors import PodNotFound
from redirect.netns import RUN_DIR, entered, inode
from redirect.place import Place, judge, refused, unanswered
from redirect.rtnetlink import LinkRow

GATEWAY_PATIENCE_S = 3.5
"""The kernel asks three times, a second apart."""


def locate(
    *,
    netns: str | Path | None = None,
    pid: int | None = None,
    ifname: str | None = None,
    patience_s: float = GATEWAY_PATIENCE_S,
) -> Place:
    """A pod by exactly one of: path of its namespace, a process in it, its interface on this node.

    By interface the pod's namespace is looked for among /run/netns and all processes; one that is held open by
    something else is not found, and the refusal says so. A gateway that is another machine has `patience_s` to
    answer. Raises ValueError, PodNotFound for a path, process or interface that is not there or leads to no network
    namespace, OSError for one that cannot be read.
    """
    given = [each for each in (netns, pid, ifname) if each is not None]
    if len(given) != 1:
        raise ValueError("name the pod by exactly one of netns, pid and ifname")
    if ifname is not None:
        return _locate_interface(ifname, patience_s)
    with held(Path(netns)) if netns is not None else _held_of_process(pid) as path:
        return _look(path, patience_s)


@contextmanager
def inside(
    *,
    netns: str | Path | None = None,
    pid: int | None = None,
    ifname: str | None = None,
) -> Iterator[None]:
    """In the network namespace of a pod that is named as for `locate`. Raises PodNotFound, OSError."""
    if ifname is not None:
        path = namespace_behind(_link_named(ifname).ifindex)
        if path is None:
            raise PodNotFound(f"the namespace behind interface {ifname} has neither a name nor a process")
        netns = path
    with (
        held(Path(netns)) if netns is not None else _held_of_process(pid) as same,
        entered(same),
    ):
        yield


def _look(path: Path, patience_s: float) -> Place:
    """The place of the pod in a namespace, its gateways asked for their MACs where it does not know them."""
    seen = view.read(path)
    gateways = unanswered(seen)
    if gateways:
        (inside,) = (link for link in seen.inside if link.addresses and link.ifindex != view.LOOPBACK)
        with entered(path):
            rows = neighbours.resolve(inside.ifindex, gateways, patience_s)
        answers = {address: row.mac for address, row in rows.items()}
        seen = replace(seen, neighbours={**seen.neighbours, **answers})
    return judge(seen)


def namespace_behind(ifindex: int) -> Path | None:
    """A path to the namespace of a veth's other end; None when no name and no process leads there."""
    link = rtnetlink.link(ifindex)
    if link is None or link.peer_nsid is None:
        return None
    for path in namespaces():
        try:
            if rtnetlink.nsid(path) == link.peer_nsid:
                return path
        except OSError:
            continue  # the process ended meanwhile
    return None


def namespaces_behind(ifindexes: Collection[int]) -> dict[int, Path]:
    """The same of several interfaces, for as long as it takes for one; without those that nothing leads to."""
    links = {ifindex: rtnetlink.link(ifindex) for ifindex in ifindexes}
    paths = by_nsid() if links else {}
    return {
        ifindex: paths[link.peer_nsid]
        for ifindex, link in links.items()
        if link is not None and link.peer_nsid in paths
    }


def leads_behind(path: Path, ifindex: int) -> bool:
    """Whether a path still does: a process may have ended, and its pid be another's."""
    link = rtnetlink.link(ifindex)
    try:
        return link is not None and rtnetlink.nsid(path) == link.peer_nsid is not None
    except OSError:
        return False


def by_nsid() -> dict[int | None, Path]:
    """A path to every namespace that this one has a number for."""
    found: dict[int | None, Path] = {}
    for path in namespaces():
        try:
            number = rtnetlink.nsid(path)
        except OSError:
            continue  # the process ended meanwhile
        if number is not None:
            found.setdefault(number, path)
    return found


def _locate_interface(ifname: str, patience_s: float) -> Place:
    link = _link_named(ifname)
    if link.kind != "veth":
        kind = link.kind or "physical device"
        return refused(f"interface {ifname} is not a veth but a {kind}: name the host end of the pod's veth")
    path = namespace_behind(link.ifindex)
    if path is None:
        return refused(
            f"the namespace behind interface {ifname} is neither under {RUN_DIR} nor that of a process: "
            "name the pod by --netns or --pid"
        )
    with held(path) as same:
        place = _look(same, patience_s)
    if not place.refusal and place.ifindex != link.ifindex:
        return refused(
            f"interface {ifname} is not the one that the pod behind it uses: that is {place.ifname}"
        )
    return place


def _link_named(ifname: str) -> LinkRow:
    link = next((link for link in rtnetlink.links().values() if link.ifname == ifname), None)
    if link is None:
        raise PodNotFound(f"this node has no interface {ifname}; `ip link` lists them")
    return link


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """A path to the same namespace that nobody can mount something else on while it is read. Raises PodNotFound."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError) as error:
        raise PodNotFound(
            f"there is no namespace at {path} (no such file); `ip netns` lists those with a name"
        ) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise PodNotFound(f"{path} is not a network namespace") from error
        raise
    try:
        same = Path(f"/proc/self/fd/{fd}")
        try:
            rtnetlink.nsid(same)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EISDIR):
                raise
            raise PodNotFound(f"{path} is not a network namespace") from error
        yield same
    finally:
        os.close(fd)


@contextmanager
def _held_of_process(pid: int | None) -> Iterator[Path]:
    try:
        with held(Path(f"/proc/{pid}/ns/net")) as path:
            yield path
    except PodNotFound as error:
        raise PodNotFound(f"there is no process {pid} (no such process)") from error


def namespaces() -> Iterator[Path]:
    """A path to every namespace that has a name or a process, each once."""
    seen: set[int] = set()
    named = RUN_DIR.iterdir() if RUN_DIR.is_dir() else iter(())
    for path in (*named, *Path("/proc").glob("[0-9]*/ns/net")):
        try:
            number = inode(path)
        except OSError:
            continue
        if number not in seen:
            seen.add(number)
            yield path
