"""Attaches our programs: by tcx where the kernel has it, else as clsact filters, and by sk_lookup links.

A tcx link waits for a grace period, with everybody else behind it. So where many are to come at once on a kernel that
has tcx they are filters first, which wait for nothing, and become links one after another later (`settle`).
Nothing that is not ours is ever changed or removed. What belongs where is decided elsewhere; interface numbers are
those of the calling thread's network namespace, and a number whose interface was made anew is not the same place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from redirect import features, netns, sys_bpf, tc_rows
from redirect.errors import InstanceInUse, RedirectError
from redirect.filters import Attachment, Filters, program_words
from redirect.guards import BEHIND, Guards
from redirect.layout import ENDING
from redirect.links import Links
from redirect.pins import BPFFS, Pins

TCX_TYPES = {
    "from_pod": sys_bpf.BPF_TCX_INGRESS,
    "to_pod": sys_bpf.BPF_TCX_EGRESS,
    "from_pod_side": sys_bpf.BPF_TCX_INGRESS,
    "from_net_side": sys_bpf.BPF_TCX_INGRESS,
}

MANY = 16
"""More than that at once are filters first: as many links take a quarter of a second."""
GUARDING_S = 0.1
"""Of each turn of guards, every other second: what else is to be done waits for so long at most."""
_NOWHERE = Attachment(0)
_UNSETTLED = Attachment(0)
"""A filter and a link: what a crash leaves of a place that was to change from the one to the other."""

Attached = dict[tuple[int, str], Attachment]
"""By (ifindex, program)."""


class Attachments:
    """The attachments of one instance. `program_fd`: this generation's, by name; `has_tcx`: None asks the kernel."""

    def __init__(
        self, instance: str, pins: Pins, program_fd: Callable[[str], int], *, has_tcx: bool | None
    ) -> None:
        self._pins = pins
        self._program_fd = program_fd
        self._has_tcx = has_tcx
        self._links = Links(pins)
        self._filters = Filters(instance, pins)
        self._guards = Guards(instance, pins, self._filters, program_fd, self.program_id)
        self._is_in_a_hurry = False

    def expect(self, count: int) -> None:
        """How many are to be attached now."""
        self._is_in_a_hurry = count > MANY

    def attach(self, ifindex: int, program: str) -> None:
        """Puts this generation's program there, or swaps it in for an older one without a gap.

        Raises StepFailed for an interface that is gone or has a qdisc in the way, OSError otherwise.
        """
        prog_fd = self._program_fd(program)
        if not self.uses_links:
            self._filters.attach(ifindex, program, prog_fd)
            return
        is_linked = self._links.has(_link_name(ifindex, program))
        if program in ENDING and self._filters.has(ifindex, program):
            if is_linked:
                self._settle_with_drop(ifindex, program)
            else:
                self._filters.attach(ifindex, program, prog_fd)
        elif is_linked or not self._attach_at_once(ifindex, program, prog_fd):
            self._link(ifindex, program, prog_fd)

    def _attach_at_once(self, ifindex: int, program: str, prog_fd: int) -> bool:
        """As a filter, where it is one of many and alone there: what others have by tcx would run before it."""
        if not self._is_in_a_hurry or program not in ENDING:
            return False
        if sys_bpf.Query().hooked(ifindex, TCX_TYPES[program]).programs:
            return False
        return self._filters.attach_alone(ifindex, program, prog_fd)

    def _link(self, ifindex: int, program: str, prog_fd: int) -> None:
        kind = TCX_TYPES[program]
        self._links.ensure(_link_name(ifindex, program), prog_fd, ifindex, kind, sys_bpf.BPF_F_BEFORE)

    def settle(self, ifindex: int, program: str) -> None:
        """Has a link in the place of a filter; each packet meets one of the two. Raises as `attach`; one is there then.

        The link's first program lets nothing on to the filter behind it, so from one packet to the next it is the link
        that counts. When the call returns a grace period has passed: nobody is between the two any more who met
        neither. Then the filter goes, and the link has the program that lets others see what passes. Where others have
        something there, who would miss packets meanwhile, these are dropped for the moment that it takes instead.
        """
        if not self.uses_links or not self._filters.has(ifindex, program):
            return
        if self._has_others(ifindex, program):
            self._link_verdict(ifindex, program, sys_bpf.TC_ACT_UNSPEC)
            self._settle_with_drop(ifindex, program)
            return
        self._link(ifindex, program, self._program_fd(ENDING[program]))
        self._filters.take_out(ifindex, program)
        self._link(ifindex, program, self._program_fd(program))

    def _settle_with_drop(self, ifindex: int, program: str) -> None:
        """Of a place that has a link and a filter. Where the filter stays all the same, and nobody else would miss what
        passes, the link captures in its stead: nobody's pod is to be cut off for what the kernel refuses."""
        self._link_verdict(ifindex, program, sys_bpf.TC_ACT_SHOT)
        try:
            self._filters.take_out(ifindex, program)
        except OSError:
            if not self._has_others(ifindex, program):
                self._link(ifindex, program, self._program_fd(ENDING[program]))
            raise
        self._link(ifindex, program, self._program_fd(program))

    def _has_others(self, ifindex: int, program: str) -> bool:
        """Whether programs that are not ours are at a place, by tcx or as filters."""
        link = self._links.info(_link_name(ifindex, program))
        tcx = set(sys_bpf.Query().hooked(ifindex, TCX_TYPES[program]).links) - {
            link.id if link is not None else 0
        }
        return bool(tcx) or self._filters.has_others(ifindex, program)

    def _link_verdict(self, ifindex: int, program: str, verdict: int) -> None:
        fd = sys_bpf.load_verdict("ztun_settling", verdict)
        try:
            self._link(ifindex, program, fd)
        finally:
            os.close(fd)

    def renew(self, places: Iterable[tuple[int, str]]) -> None:
        """Swaps this generation's programs in for older ones at (ifindex, program).

        One that fails keeps its older program, closed as it was: a proof shows it, and whoever attaches it later is
        told why. The others must not wait for it.
        """
        for ifindex, program in places:
            with suppress(RedirectError, OSError):
                self.attach(ifindex, program)

    def go_ahead(self, ifindex: int, program: str) -> None:
        """Has an attached program run before those of others, with no moment in which nothing of ours is there.

        Raises as `attach`; then it runs where it was.
        """
        prog_fd = self._program_fd(program)
        if self.uses_links and self._links.has(_link_name(ifindex, program)):
            self._links.move_ahead(_link_name(ifindex, program), prog_fd, ifindex, TCX_TYPES[program])
        elif self.uses_links:
            self.settle(ifindex, program)
        else:
            self._filters.move_ahead(ifindex, program, prog_fd)

    def detach(self, ifindex: int, program: str) -> None:
        """Takes a program off again; one that is not there is nothing to do."""
        if self.uses_links:
            self._links.remove(_link_name(ifindex, program))
        if not self.uses_links:
            self._filters.detach(ifindex, program)
        elif program in ENDING and (self._filters.owns(ifindex) or self._filters.has(ifindex, program)):
            self._filters.remove(ifindex, program)

    def attached(self) -> Attached:
        """What of ours is attached to devices."""
        if not self.uses_links:
            return self._filters.attached()
        found: Attached = {}
        query = sys_bpf.Query()
        for name, link_id in self._links.ids().items():
            number, dash, program = name.partition("-")
            if dash and program in TCX_TYPES:
                found[int(number), program] = _attachment(query, link_id, int(number), program)
        return found | _provisional(query, self._filters.attached(), found)

    def attached_at(self, ifindex: int) -> Attached:
        """The same of one device."""
        if not self.uses_links:
            return self._filters.attached_at(ifindex)
        known = ((program, self._links.info(_link_name(ifindex, program))) for program in TCX_TYPES)
        query = sys_bpf.Query()
        found = {
            (ifindex, program): _attachment(query, link.id, ifindex, program)
            for program, link in known
            if link is not None
        }
        return found | _provisional(query, self._filters.attached_at(ifindex), found)

    def keep_guards(self, captured: Iterable[int]) -> list[str]:
        """Guards behind the programs of captured interfaces, and at no others; what changed, in lines. Raises OSError.

        Some at a time (`guards.AT_ONCE`), and none where programs are filters, which are held by their device.
        """
        if not self.uses_links:
            return []
        current = {program: self.program_id(program) for program in BEHIND.values()}

        def is_whole(ifindex: int) -> bool:
            found = self.attached_at(ifindex)
            return {each.program_id for each in found.values() if not each.is_provisional} >= set(
                current.values()
            )

        return self._guards.keep(set(captured), is_whole, GUARDING_S)

    @property
    def behind_guards(self) -> Mapping[int, str]:
        """Interfaces whose guards stay behind filters of others, and who those are; by the looks of this process."""
        return self._guards.behind

    def guards(self) -> Attached:
        """Those of this node, of whatever generation."""
        return self._guards.attached() if self.uses_links else {}

    def program_ids(self) -> set[int]:
        """Of all programs of ours that are attached to devices, guards included. Raises OSError."""
        guards = self._guards.program_ids() if self.uses_links else ()
        return {each.program_id for each in self.attached().values()} | set(guards)

    @property
    def has_guards(self) -> bool:
        """Whether there is any on this node, also where nothing else is left."""
        return self.uses_links and self._guards.is_anywhere

    def detach_guards(self) -> list[str]:
        """What was removed. Raises OSError."""
        return self._guards.remove_all() if self.uses_links else []

    def forget_qdiscs(self, present: Collection[int]) -> None:
        """Those of interfaces that are gone: the next clsact under such a number is not ours."""
        self._filters.forget_qdiscs(present)

    def attach_lookup(self, program: str, namespace: Path) -> None:
        """The socket lookup of a private namespace."""
        link = self._links.info(program)
        if link is not None and link.target != namespace.stat().st_ino:
            self._links.remove(program)
        with namespace.open("rb") as target:
            self._links.ensure(program, self._program_fd(program), target.fileno(), sys_bpf.BPF_SK_LOOKUP)

    def attached_lookup(self, program: str, namespace: Path) -> int:
        """Id of the program that looks up sockets in a namespace; 0: none of ours."""
        link = self._links.info(program)
        return link.prog_id if link is not None and link.target == namespace.stat().st_ino else 0

    def detach_lookups(self) -> None:
        for name in self._links.ids():
            if "-" not in name:
                self._links.remove(name)

    def refuse_unseen(self, program: str, namespace: Path) -> None:
        """Raises InstanceInUse when a private namespace has a socket lookup that is not known here.

        The namespace is ours alone: an earlier agent attached it, and a second set of programs beside its set
        would drop what that one lets pass.
        """
        if self._links.info(program) is not None or not netns.is_namespace(namespace):
            return
        with namespace.open("rb") as target:
            if sys_bpf.prog_query(target.fileno(), sys_bpf.BPF_SK_LOOKUP):
                raise InstanceInUse(
                    f"namespace {namespace.name} has a socket lookup whose pin is not in {self._pins.links}: has "
                    f"{BPFFS} been unmounted, or did the agent before run in another mount namespace? Start this "
                    "one where the pins are, or choose another instance"
                )

    def has_foreign(self, ifindex: int) -> bool:
        """Whether programs that are not pinned here have what comes in by an interface."""
        attached = set(sys_bpf.prog_query(ifindex, sys_bpf.BPF_TCX_INGRESS))
        attached |= {row.program_id for row in tc_rows.filters(ifindex, tc_rows.CLSACT_INGRESS)}
        return not attached <= self._pins.program_ids()

    def program_id(self, program: str) -> int:
        """Id of this generation's program."""
        return sys_bpf.prog_info(self._program_fd(program)).id

    @property
    def uses_links(self) -> bool:
        """Whether programs are held by links, which live only as long as anybody has them: else they are filters."""
        if self._has_tcx is None:
            self._has_tcx = features.has_tcx()
        return self._has_tcx

    def lost_pins(self) -> list[str]:
        """Names of links without a pin of theirs."""
        return self._links.lost_pins()

    def restore_pins(self) -> list[str]:
        """Pins again the links that lost their pin; their names. Raises OSError."""
        self._filters.restore_marks()
        self._guards.restore_marks()
        return self._links.restore_pins()

    def close(self) -> None:
        """Gives descriptors back: only the pins hold the links then."""
        self._links.close()


def _attachment(query: sys_bpf.Query, link_id: int, ifindex: int, program: str) -> Attachment:
    """Asked of the hook and not of the link: so it is known at once what runs there, and what runs before it."""
    hooked = query.hooked(ifindex, TCX_TYPES[program])
    if link_id not in hooked.links:
        return _NOWHERE
    at = hooked.links.index(link_id)
    return Attachment(hooked.programs[at], ", ".join(map(program_words, hooked.programs[:at])))


def _provisional(query: sys_bpf.Query, filters: Attached, links: Attached) -> Attached:
    """The filters on a kernel that has tcx, whose programs run before them."""
    found = {}
    for (ifindex, program), each in filters.items():
        before = query.hooked(ifindex, TCX_TYPES[program]).programs
        ahead = ", ".join(filter(None, (*map(program_words, before), each.ahead)))
        is_linked = (ifindex, program) in links
        found[ifindex, program] = _UNSETTLED if is_linked else Attachment(each.program_id, ahead, True)
    return found


def _link_name(ifindex: int, program: str) -> str:
    return f"{ifindex}-{program}"
