"""Connections that were asked for while nobody served: their SYNs are let in as soon as somebody does.

The programs drop such a SYN and note it (`redirect.waiting`). TCP itself would send it again a second later, then after
longer and longer pauses, so a client may wait for seconds when all is well again. They are let in as held SYNs are
(bpf/README.md): by the private namespace's own device, back to where it came from, to the listener.

Not those that a worker is to be asked of first (`--honest-connect`): the listener would accept what their destination
may refuse. Only programs write into rings, so these wait for their clients' next try, which is held as any other.

What programs do with a SYN of the network besides, these go past: who is denied is denied by a worker, as always; more
than strangers may open at once are no more than `redirect.waiting.MOST`, once. `captures` does not count them: it is
held against what workers accept, and the one thing that it tells of is that they accept too little.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing

from agent.model.address import IP
from agent.model.counted import counted
from agent.model.listener import DNS, HBONE
from agent.net.frames import FrameSender
from agent.wire.held_syn import FROM_POD, TO_POD, HeldSyn, again, read
from redirect import waiting
from redirect.layout import Flag
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
        noted = fresh(waiting.take(redirection.descriptor("waiting")), time.monotonic_ns())
        treatments = treatments_of(redirection) if noted else {}
        syns = [syn for syn in noted if not is_asked_first(syn, treatments)]
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
    if left := len(noted) - len(syns):
        log.info(
            "%s that came while nobody served: asked when their clients try again", counted(left, "connect")
        )


def treatments_of(redirection: Redirection) -> dict[IP, Flag]:
    """Of pods whose connects may be held, by address: none where nobody has a ring. Raises NoPins, OSError."""
    if not redirection.conf().owners:
        return {}
    return {address: place.treatment for place in redirection.captured() for address in place.addresses}


def is_asked_first(syn: HeldSyn, treatments: Mapping[IP, Flag]) -> bool:
    """Whether the programs hold it when it comes again: as from_pod.c and to_pod.c do, of bpf/."""
    treatment = treatments.get(syn.pod, Flag(0))
    if syn.hook == FROM_POD:
        is_held = not (treatment & Flag.DNS and syn.local.port == DNS.port)
    else:
        is_held = syn.local.port != HBONE.port
    return is_held and Flag.HONEST in treatment


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
