"""Checks of what ztun has in the kernel of this node, read from its pins: also while every process of it is dead."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from agent.admin.client import AgentAbsent, AgentRefused
from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import Site
from agent.doctor.without_agent import ejected_words
from redirect import audit, break_glass, rtnetlink, sys_bpf, tc_rows
from redirect.attach import TCX_TYPES, Attachments
from redirect.filters import program_words
from redirect.findings import NOT_FIRST
from redirect.layout import MAPS, REASONS, SLOTS
from redirect.opened import which_words
from redirect.reconcile import Redirection
from redirect.rt_writes import CLSACT
from redirect.side_check import require_here

DEFAULT_INSTANCE = "ztun"
LOOK_APART_S = 0.1
NEARLY = 0.9
FILLED = ("pods", "ifaces", "hostips", "owners")
"""Maps that are full when they are full; the others forget who was longest idle, or cost a count."""
OWN_FAULTS = ("NO_CONF", "NO_LISTENER", "UNFIT_LISTENER", "NO_IFACE", "NO_NEXT_HOP", "TOO_BIG")
"""Drops that no pod and no peer has earned: something of ztun or of the node is missing."""

FOREIGN = Subject("foreign programs", "programs before and behind those of ztun, on pods' interfaces")
BREAK_GLASS = Subject("break glass", "pods that somebody opened for a while")
LISTENERS = Subject("listeners", "sockets that take captured connections")
ROOM = Subject("room in maps", f"entries of {', '.join(FILLED)}")
DRIFT = Subject("drift", "what is in the kernel against what is desired, as `ztun audit` has it")
TOLD_BY_OTHERS = ("rp_filter", " MTU ", "has packets before", "has no listener")
"""In reasons of an audit: checks of their own look for these, and have the remedy."""
DROPS = Subject("drops", f"packets by reason, counted twice within {LOOK_APART_S:g} s")


def foreign_programs(site: Site) -> Check:
    links = rtnetlink.links()
    attachments = Attachments(site.instance, site.pins, _no_program, has_tcx=None)
    try:
        ours = attachments.attached() | attachments.guards()
        own = attachments.program_ids()
    finally:
        attachments.close()
    for (ifindex, program), each in sorted(ours.items()):
        name = links[ifindex].ifname if ifindex in links else f"interface {ifindex}"
        if each.ahead:
            return FOREIGN.failed(
                f"{each.ahead} has packets before {program} on {name}, and may take them away",
                NOT_FIRST.format(name=name),
            )
    qdiscs = tc_rows.ingress_qdiscs()
    others = [
        f"{program_words(number)} on {link.ifname}"
        for link in links.values()
        if link.kind == "veth"
        for number in _programs_of(link.ifindex, has_clsact=qdiscs.get(link.ifindex) == CLSACT)
        if number not in own
    ]
    if others:
        shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        return FOREIGN.ok(f"{shown}: ours are before them, or will be put there")
    return FOREIGN.ok("none")


def broken_glass(site: Site) -> Check:
    with site.maps() as maps:
        found = break_glass.opened(maps) if maps is not None else ()
        ejected = ejected_words(site.run_dir, maps) if _is_agent_absent(site) else []
    if not found and not ejected:
        return BREAK_GLASS.ok("no pod is open")
    if not found:
        return BREAK_GLASS.warning("; ".join(ejected), "start the agent, which captures what is enrolled")
    where = (
        "" if site.instance == DEFAULT_INSTANCE else f" --instance {site.instance} --run-dir {site.run_dir}"
    )
    closing = (f"ztun bypass {which_words(each)} --off{where}" for each in found)
    whose = ", ".join(f"{each.name} for {each.left_s:.0f} s more ({each.opening.reason})" for each in found)
    return BREAK_GLASS.warning(
        "; ".join([f"in clear, and no policy is asked: {whose}", *ejected]),
        "it ends by itself; earlier, with its connections",
        "; ".join(closing),
    )


def _is_agent_absent(site: Site) -> bool:
    """Whether what is enrolled is nobody's to capture. One that refuses an answer is there."""
    try:
        site.agent.page("/status")
    except AgentRefused:
        return False
    except AgentAbsent:
        return True
    return False


def listeners(site: Site) -> Check:
    with site.maps() as maps:
        if maps is None:
            return LISTENERS.ok("no agent has run here")
        return judge_listeners(maps.slots(), len(maps.ifaces()))


def judge_listeners(slots: tuple[bool, ...], captured: int) -> Check:
    empty = [name for name, slot in SLOTS.items() if not slots[slot]]
    if not empty:
        return LISTENERS.ok("each of them is there")
    words = f"nobody listens for {', '.join(empty)}"
    if not captured:
        return LISTENERS.ok(f"{words}, and no pod is captured")
    return LISTENERS.failed(
        f"{words}: new connections of {captured} captured interfaces wait, and then fail",
        "start the agent, whose workers bring theirs; `ztun unenroll` and `ztun uninstall` open pods instead",
    )


def room_in_maps(site: Site) -> Check:
    with site.maps() as maps:
        if maps is None:
            return ROOM.ok("no agent has run here")
        return judge_room(
            {name: sum(1 for _ in sys_bpf.map_keys(maps.fds[name], MAPS[name].key_bytes)) for name in FILLED}
        )


def judge_room(entries: Mapping[str, int]) -> Check:
    shares = {name: count / MAPS[name].max_entries for name, count in entries.items()}
    fullest = max(shares, key=lambda name: shares[name])
    words = f"{fullest} has {entries[fullest]} of {MAPS[fullest].max_entries} entries"
    if shares[fullest] < NEARLY:
        return ROOM.ok(f"{words}, the others less of theirs")
    return ROOM.failed(
        f"{words}: further pods cannot be captured when it is full",
        f"`ztun maps dump {fullest}` shows what is in it; addresses and interfaces that are gone point to a bug",
    )


def drift(site: Site) -> Check:
    try:
        report, has_agent = site.agent.page("/audit"), True
    except AgentRefused as error:
        return DRIFT.cannot_tell(str(error))
    except AgentAbsent:
        if not site.pins.is_complete:
            return DRIFT.ok("no agent has run here")
        with site.inside():
            require_here(site.instance)
        with site.inside(), closing(Redirection(site.instance, site.run_dir)) as redirection:
            report, has_agent = audit.by_maps(redirection), False
    return judge_drift([row["reason"] for row in report["drift"]], has_agent=has_agent)


def judge_drift(reasons: Sequence[str], *, has_agent: bool) -> Check:
    """`reasons` as an audit has them."""
    found = [each for each in reasons if not any(words in each for words in TOLD_BY_OTHERS)]
    if not found:
        return DRIFT.ok(
            "nothing differs" if has_agent else "nothing differs from what the maps say; no agent answers"
        )
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    remedy = (
        "the agent makes it good within two seconds; if this stays, its log says what is in the way"
        if has_agent
        else "start the agent, which makes it good; `ztun audit` has each with what to do"
    )
    return DRIFT.failed(f"{found[0]}{more}", remedy)


def drops(site: Site) -> Check:
    with site.maps() as maps:
        if maps is None:
            return DROPS.ok("no agent has run here")
        before = maps.stats()
        time.sleep(LOOK_APART_S)
        return judge_drops(before, maps.stats())


def judge_drops(before: Mapping[tuple[str, str], int], now: Mapping[tuple[str, str], int]) -> Check:
    places = [(reason.program, reason.name) for reason in REASONS if reason.is_drop]
    growing = [place for place in places if place[1] in OWN_FAULTS and now[place] > before[place]]
    counted = sorted((place for place in places if now[place]), key=lambda place: -now[place])
    if growing:
        return DROPS.warning(
            f"packets are dropped now: {_counts(growing, now)}",
            "bpf/README.md says what each reason means; `ztun status` names what is missing",
        )
    if not counted:
        return DROPS.ok("none since the maps were made")
    return DROPS.ok(
        f"since the maps were made {_counts(counted[:5], now)}; none for want of something of ztun now"
    )


def _counts(places: list[tuple[str, str]], counts: Mapping[tuple[str, str], int]) -> str:
    return ", ".join(f"{program} {reason} {counts[program, reason]}" for program, reason in places)


def _programs_of(ifindex: int, *, has_clsact: bool) -> Iterator[int]:
    for kind in sorted(set(TCX_TYPES.values())):
        yield from sys_bpf.prog_query(ifindex, kind)
    for parent in (tc_rows.CLSACT_INGRESS, tc_rows.CLSACT_EGRESS) if has_clsact else ():
        yield from (row.program_id for row in tc_rows.filters(ifindex, parent) if row.program_id)


def _no_program(name: str) -> int:
    raise AssertionError(f"a doctor attaches nothing, and asks for no program: {name}")


CHECKS = (
    Examination(FOREIGN, foreign_programs, is_of_network=True),
    Examination(BREAK_GLASS, broken_glass),
    Examination(LISTENERS, listeners),
    Examination(ROOM, room_in_maps),
    Examination(DROPS, drops),
    Examination(DRIFT, drift),
)
