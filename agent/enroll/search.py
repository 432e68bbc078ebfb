"""Looks for wished pods on this node, and closes what leads to them before it asks anything else.

Blocking; runs in the thread of the kernel side. One listing of the node's links says whether everything is where it
was: only pods of which something changed are looked at again. An interface that leads into the namespace of a wished
pod is closed at first sight, without addresses: whether it is the pod's is judged afterwards. Remembers nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from agent.enroll.handed import HandedNamespaces
from agent.enroll.held import owner_of
from agent.enroll.pod_namespaces import PodNamespaces
from agent.enroll.sighting import Closure, Found, Sighting
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey, Where, Wish
from agent.model.address import IP
from redirect import locate, netns, rtnetlink
from redirect.errors import PodNotFound, RedirectError, StepsFailed
from redirect.netns import NamespaceId
from redirect.place import Place
from redirect.reconcile import Redirection
from redirect.rtnetlink import LinkRow
from redirect.side import sides_of

CLOSED_AT_ONCE = 32
"""Interfaces that one look closes, each in two grace periods of RCU: a second, in which no other start goes on."""
_STARTED_FIELD = 19
"""Field 22 of /proc/PID/stat, counted from the third: the second may hold blanks."""


def search(
    redirection: Redirection,
    wishes: Mapping[PodKey, Wish],
    known: Mapping[PodKey, Sighting],
    captured: Collection[int],
    doubted: Collection[int] = (),
    told_s: float | None = None,
    present: Collection[int] = (),
    handed: HandedNamespaces | None = None,
    learning: Collection[PodKey] = (),
) -> Found:
    """Look for every wished pod. Raises OSError when the links cannot be listed.

    `known`: what was found the last time; `captured`: interfaces that are closed already; `doubted`: numbers of
    namespaces in which something changed; `told_s`: when the news came that this follows (time.monotonic); `present`:
    interfaces that were there at the last look; `handed`: namespaces that others handed over; `learning`: pods whose
    interfaces stay open, if they were there, because whoever calls captures or closes them at once. Of many new ones
    only some are closed in one look, and their pods found: `is_partial` says that another one is to follow.
    """
    links = rtnetlink.links()
    ends = _ends(links)
    device = namespace_device()
    sightings: dict[PodKey, Sighting] = {}
    for key, wish in wishes.items():
        last = known.get(key)
        if last is not None and _is_as_it_was(last, wish.where, links, ends, doubted, device):
            sightings[key] = last
    pods = PodNamespaces(frozenset(_inodes(sightings.values())))
    new: dict[int, tuple[PodKey, LinkRow]] = {}
    with ExitStack() as paths:
        found: dict[PodKey, tuple[Path, int | None]] = {}
        for key, wish in wishes.items():
            if key in sightings:
                continue
            last = known.get(key)
            # The number of a namespace that is gone leads nowhere, unless it was given to another meanwhile.
            may_live_on = last is None or last.nsid in ends
            try:
                if wish.where.handed is not None:
                    path = paths.enter_context(held_of(wish.where.handed, handed))
                else:
                    path = paths.enter_context(_namespace_of(wish, links, pods, may_live_on))
                nsid = rtnetlink.nsid(path)
                if wish.where.pid is not None and nsid not in ends and not _runs(wish.where):
                    raise PodNotFound(f"process {wish.where.pid} has ended, and its interface is gone")
            except (PodNotFound, OSError) as error:
                nsid = last.nsid if last is not None else None
                sightings[key] = Sighting(missing=_missing(wish.where), text=str(error), nsid=nsid)
                continue
            found[key] = path, nsid
            for row in ends.get(nsid, ()):
                if row.ifindex not in captured:
                    new[row.ifindex] = key, row
        later = of_later(new, {*learning, *_known_in_part(found, ends, captured)})
        for key in {new.pop(index)[0] for index in later}:
            found.pop(key, None)
        owners = {index: owner_of(key, wishes[key].uid) for index, (key, _) in new.items()}
        learnt = {index for index, (key, _) in new.items() if key in learning and index in present}
        running = _running(new, wishes, present)
        closed, failures = close(redirection, new, told_s, running, owners, learnt=learnt)
        for key, (path, nsid) in found.items():
            sightings[key] = look_at(path, nsid, frozenset(row.ifindex for row in ends.get(nsid, ())))
    names = {side.ifname for side in sides_of(redirection.instance)}
    own = frozenset(row.ifindex for row in links.values() if row.ifname in names)
    present = {row.ifindex: row.ifname for row in links.values() if row.ifindex not in later}
    return Found(sightings, present, closed, failures, own, bool(later))


def of_later(new: Mapping[int, tuple[PodKey, LinkRow]], first: Collection[PodKey]) -> frozenset[int]:
    """Those of the new interfaces that the next look is to close: more than can wait for each other, pod by pod.

    They count as not seen, and so do their pods. `first`: pods that wait for nobody.
    """
    by_pod: dict[PodKey, list[int]] = {}
    for index, (key, _) in new.items():
        by_pod.setdefault(key, []).append(index)
    later: list[int] = []
    taken = 0
    for key in sorted(by_pod, key=lambda key: key not in first):
        if key not in first and taken and taken + len(by_pod[key]) > CLOSED_AT_ONCE:
            later += by_pod[key]
        else:
            taken += len(by_pod[key])
    return frozenset(later)


def _known_in_part(
    found: Mapping[PodKey, tuple[Path, int | None]],
    ends: Mapping[int | None, list[LinkRow]],
    captured: Collection[int],
) -> Iterator[PodKey]:
    """Pods of which something is captured: they may be served, and a look without them would let them go."""
    for key, (_, nsid) in found.items():
        if any(row.ifindex in captured for row in ends.get(nsid, ())):
            yield key


def pinned_down(where: Where) -> Where:
    """The same, with the process told from later ones of that pid. Raises PodNotFound."""
    parts = Path(where.netns).parts if where.netns is not None else ()
    if len(parts) == 5 and parts[:2] == ("/", "proc") and parts[2].isdigit() and parts[3:] == ("ns", "net"):
        # Such a path leads elsewhere when the pid is used again.
        where = Where(pid=int(parts[2]))
    if where.pid is None:
        return where
    started = _started(where.pid)
    if started is None:
        raise PodNotFound(f"there is no process {where.pid} (no such process)")
    return replace(where, started=started)


def _ends(links: Mapping[int, LinkRow]) -> dict[int | None, list[LinkRow]]:
    """Host ends of veths by the namespace they lead into."""
    found: dict[int | None, list[LinkRow]] = {}
    for row in links.values():
        if row.kind == "veth" and row.peer_nsid is not None:
            found.setdefault(row.peer_nsid, []).append(row)
    return found


def _is_as_it_was(
    last: Sighting,
    where: Where,
    links: Mapping[int, LinkRow],
    ends: Mapping[int | None, list[LinkRow]],
    doubted: Collection[int],
    device: int,
) -> bool:
    place = last.place
    if place is None or place.refusal or place.nsid is None or place.nsid in doubted:
        return False
    if not place.is_current(links):
        return False
    if frozenset(each.ifindex for each in ends[place.nsid]) != last.ends:
        return False
    return not is_elsewhere(where, place, device)


def namespace_device() -> int:
    """The device that namespaces are on."""
    return netns.OWN.stat().st_dev


def is_elsewhere(where: Where, place: Place, device: int) -> bool:
    """Whether the path of a pod leads to another namespace than the one that it was found in."""
    if where.netns is None:
        return False
    try:
        found = os.stat(where.netns)
    except OSError:
        # A path that was unmounted leaves the namespace as it is: processes and interface are still there.
        return False
    # Before a namespace is mounted there is a plain file, on another device than namespaces are.
    return found.st_dev == device and found.st_ino != (place.namespace and place.namespace.inode)


@contextmanager
def _namespace_of(
    wish: Wish, links: Mapping[int, LinkRow], pods: PodNamespaces, may_live_on: bool
) -> Iterator[Path]:
    """A path to the pod's namespace that stays the same one. Raises PodNotFound.

    What leads there may go while the namespace stays (`may_live_on`): a path is unmounted, a process ends, an
    interface is renamed. Then a name or a process that leads to the same namespace will do.
    """
    with ExitStack() as opened:
        try:
            if wish.where.pod is not None:
                path = opened.enter_context(pods.held(wish.where.pod))
            else:
                path = opened.enter_context(locate.held(_way_to(wish, links)))
            # The pid may have been given to another process between the look and the open.
            if wish.where.pid is not None and not _runs(wish.where):
                raise PodNotFound(f"process {wish.where.pid} has ended")
        except PodNotFound:
            other = _path_to(wish.namespace) if may_live_on else None
            if other is None:
                raise
            path = opened.enter_context(locate.held(other))
        yield path


@contextmanager
def held_of(namespace: NamespaceId, handed: HandedNamespaces | None) -> Iterator[Path]:
    """A path to a namespace that was handed over, by its descriptor or by whatever leads there. Raises PodNotFound."""
    with ExitStack() as opened:
        by_descriptor = handed.path(namespace) if handed is not None else None
        path = _opened(by_descriptor, namespace, opened) or _opened(_path_to(namespace), namespace, opened)
        if path is None:
            raise PodNotFound(
                f"namespace {namespace.inode}, which was handed over, is gone, or nothing leads there any more"
            )
        yield path


def _opened(path: Path | None, namespace: NamespaceId, opened: ExitStack) -> Path | None:
    """None where it leads elsewhere by now: a descriptor may be closed, and its number another's."""
    if path is None:
        return None
    with suppress(PodNotFound), ExitStack() as tried:
        same = tried.enter_context(locate.held(path))
        if _id_of(same) == namespace:
            opened.enter_context(tried.pop_all())
            return same
    return None


def _inodes(sightings: Iterable[Sighting]) -> Iterator[int]:
    for seen in sightings:
        if seen.place is not None and seen.place.namespace is not None:
            yield seen.place.namespace.inode


def _way_to(wish: Wish, links: Mapping[int, LinkRow]) -> Path:
    where = wish.where
    if where.netns is not None:
        return Path(where.netns)
    if where.pid is not None:
        return Path(f"/proc/{where.pid}/ns/net")
    row = next((row for row in links.values() if row.ifname == where.ifname), None)
    if row is None:
        raise PodNotFound(f"this node has no interface {where.ifname}")
    path = locate.namespace_behind(row.ifindex)
    if path is None:
        raise PodNotFound(f"the namespace behind interface {where.ifname} has neither a name nor a process")
    if wish.namespace is not None and _id_of(path) != wish.namespace and _path_to(wish.namespace) is not None:
        raise PodNotFound(f"interface {where.ifname} now leads into another namespace than that of the pod")
    return path


def _path_to(namespace: NamespaceId | None) -> Path | None:
    if namespace is None:
        return None
    for path in locate.namespaces():
        try:
            if netns.inode(path) == namespace.inode and _id_of(path) == namespace:
                return path
        except OSError:
            continue  # the process ended meanwhile
    return None


def _id_of(path: Path) -> NamespaceId:
    with netns.entered(path):
        return netns.own_id()


def look_at(path: Path, nsid: int | None, ends: frozenset[int]) -> Sighting:
    """What is behind these interfaces, which are closed."""
    try:
        # A gateway that has not answered yet is asked for, and looked at again with the next turn: nobody waits here.
        place = locate.locate(netns=path, patience_s=0)
    except (PodNotFound, OSError) as error:
        text = f"its namespace cannot be read: {error}"
        return Sighting(ends=ends, missing=Missing.NAMESPACE, text=text, nsid=nsid)
    if place.refusal:
        return Sighting(place, ends, Missing.INTERFACE, place.refusal, nsid)
    return Sighting(place, ends | {place.ifindex}, nsid=nsid)


def _running(
    new: Mapping[int, tuple[PodKey, LinkRow]], wishes: Mapping[PodKey, Wish], present: Collection[int]
) -> dict[int, tuple[IP, ...]]:
    """Interfaces of pods that ran before anybody wished for them, with the addresses that the wish knows."""
    instances = {ifindex: wishes[key].where.pod for ifindex, (key, _) in new.items() if ifindex in present}
    return {ifindex: pod.addresses if pod else () for ifindex, pod in instances.items()}


def close(
    redirection: Redirection,
    new: Mapping[int, tuple[PodKey, LinkRow]],
    told_s: float | None,
    running: Mapping[int, Collection[IP]],
    owners: Mapping[int, str],
    *,
    is_outward_only: bool = False,
    learnt: Collection[int] = (),
) -> tuple[tuple[Closure, ...], tuple[RedirectError, ...]]:
    """Interfaces that lead to wished pods (`new`, by ifindex): those that are closed now, and what failed.

    `learnt`: of those that run, the ones that are not closed.
    """
    if not new:
        return (), ()
    before = {ifindex: rtnetlink.link(ifindex) for ifindex in new}
    failures: tuple[RedirectError, ...] = ()
    try:
        names = {ifindex: row.ifname for ifindex, (_, row) in new.items()}
        redirection.close_off(names, running, owners, is_outward_only=is_outward_only, learnt=learnt)
    except RedirectError as error:
        failures = failures_of(error)
    closed_s = time.monotonic()
    failed = {failure.ifindex for failure in failures}
    closed = []
    for ifindex, (key, row) in new.items():
        now, then = rtnetlink.link(ifindex), before[ifindex]
        if ifindex in failed or ifindex in learnt or now is None:
            continue
        open_s = 0.0 if not now.is_up else None if told_s is None else closed_s - told_s
        closed.append(Closure(key, ifindex, row.ifname, open_s, then.received if then else 0))
    return tuple(closed), failures


def failures_of(error: RedirectError | OSError) -> tuple[RedirectError, ...]:
    """One error for each thing that failed, with the interface that it concerns."""
    match error:
        case StepsFailed():
            return error.failures
        case RedirectError():
            return (error,)
        case _:
            return (RedirectError(f"the kernel side cannot be read: {error}"),)


def _missing(where: Where) -> Missing:
    if where.ifname is not None:
        return Missing.INTERFACE
    return Missing.PROCESS if where.pid is not None else Missing.NAMESPACE


def _runs(where: Where) -> bool:
    return where.pid is not None and _started(where.pid) == where.started


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[_STARTED_FIELD])
