"""Looks for one wished pod whose start waits, and closes what leads to it. Nothing else of the node is read.

What it takes does not grow with the pods of the node. First what the pod sends is stopped: nothing can be said to it
either then, as no answer leaves. `finish` has the rest, for which nobody waits. Where a whole look would do more than
this (the namespace is not named, or not there yet) there is no answer, and the next turn looks. Blocking; in the thread
of the kernel side.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from agent.enroll.handed import HandedNamespaces
from agent.enroll.held import owner_of
from agent.enroll.search import close, failures_of, held_of, look_at
from agent.enroll.sighting import Found
from agent.enroll.wish import PodKey, Wish
from redirect import locate, netns, rtnetlink
from redirect.errors import PodNotFound, RedirectError
from redirect.reconcile import Redirection
from redirect.rtnetlink import LinkRow


def look_for(
    redirection: Redirection,
    key: PodKey,
    wish: Wish,
    captured: Collection[int],
    handed: HandedNamespaces | None = None,
) -> Found | None:
    """As `search.search`, of a pod that nobody has looked for yet: `present` are the interfaces that lead to it."""
    where = wish.where
    try:
        with ExitStack() as opened:
            if where.handed is not None:
                path = opened.enter_context(held_of(where.handed, handed))
            elif where.netns is not None:
                path = opened.enter_context(locate.held(Path(where.netns)))
            else:
                return None
            nsid = rtnetlink.nsid(path)
            ends = _ends(path, nsid)
            if not ends:
                return None
            new = {row.ifindex: (key, row) for row in ends if row.ifindex not in captured}
            owners = dict.fromkeys(new, owner_of(key, wish.uid))
            closed, failures = close(redirection, new, None, {}, owners, is_outward_only=True)
            sighting = look_at(path, nsid, frozenset(row.ifindex for row in ends))
    except (PodNotFound, OSError):
        return None  # it goes while it is looked for: the next turn says so, in words
    return Found({key: sighting}, {row.ifindex: row.ifname for row in ends}, closed, failures)


def finish(redirection: Redirection, found: Found) -> tuple[RedirectError, ...]:
    """Close what `look_for` has closed in the other direction too; what failed."""
    try:
        redirection.close_off({closure.ifindex: closure.ifname for closure in found.closed}, {}, {})
    except (RedirectError, OSError) as error:
        return failures_of(error)
    return ()


def _ends(path: Path, nsid: int | None) -> list[LinkRow]:
    """The node's ends of the veths in a namespace: each names its peer, which must name it back."""
    if nsid is None:
        return []
    with netns.entered(path):
        inside = [row for row in rtnetlink.links().values() if row.kind == "veth" and row.peer]
    rows = ((row, rtnetlink.link(row.peer)) for row in inside)
    return [
        end
        for row, end in rows
        if end is not None and (end.kind, end.peer, end.peer_nsid) == ("veth", row.ifindex, nsid)
    ]
