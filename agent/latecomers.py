"""Connections that were asked for while nobody served: their SYNs are let in as soon as somebody does.

The programs drop such a SYN and note it (`redirect.waiting`). TCP itself would send it again a second later, then after
longer and longer pauses, so a client may wait for seconds when all is well again. They are let in as held SYNs are
(bpf/README.md): by the private namespace's own device, back to where it came from, to the listener.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing

from agent.model.counted import counted
from agent.net.frames import FrameSender
from agent.wire.held_syn import FROM_POD, TO_POD, HeldSyn, again, read
from redirect import waiting
from redirect.netns import entered
from redirect.reconcile import Redirection
from redirect.side import sides_of

log = logging.getLogger(__name__)

LATEST_S = 65.0
"""Who has sent nothing for so long has given up: Linux waits 64 s at most before it tries again."""


def let_in(redirection: Redirection) -> None:
    """Those that came while nobody served, now that somebody does. Raises NoPins.

    Where it cannot be done their clients come again by themselves.
    """
    try:
        syns = fresh(waiting.take(redirection.descriptor("waiting")), time.monotonic_ns())
        for hook, netns, side in zip(
            (FROM_POD, TO_POD), redirection.private_namespaces, sides_of(redirection.instance), strict=True
        ):
            frames = [syn for syn in syns if syn.hook == hook]
            if frames:
                with entered(netns), closing(FrameSender(side.ifname)) as sender:
                    for syn in frames:
                        sender.send(again(syn, sender.mac))
    except OSError as error:
        log.warning("those who came while nobody served are not let in at once, and try again: %s", error)
        return
    if syns:
        log.info("let in %s that came while nobody served", counted(len(syns), "connection"))


def fresh(records: list[bytes], now_ns: int) -> list[HeldSyn]:
    """The SYNs of those records whose clients may still wait."""
    syns = []
    for record in records:
        try:
            syn = read(record)
        except ValueError as error:
            log.error("a SYN that was noted makes no sense: %s", error)
            continue
        if now_ns - syn.at_ns <= LATEST_S * 1e9:
            syns.append(syn)
    return syns
