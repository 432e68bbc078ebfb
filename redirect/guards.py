"""Guards: what keeps captured pods closed when nothing holds the links any more that capture them.

A tcx link lives by its pin and by the processes that hold it. Where the pins are removed, or their bpffs is unmounted,
while no agent lives, the kernel takes it off, and the pod would speak in clear. A guard is a clsact filter behind it,
which lives in the device: it drops what the program before it has not seen (bpf/include/ztun_seen.h), and keeps every
map of its generation alive, where the next agent finds them.

It is put behind captures that are whole, some at a time: the plugins of a CNI that come after a pod's capture may want
the place of its clsact for an `ingress` qdisc. A filter of somebody else before it may end a packet's way: so it goes
ahead again, and after MOVES times in vain it is said (`behind`). In the node's network namespace, under the instance's
lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from redirect import netlink, tc_rows
from redirect.errors import RedirectError
from redirect.filters import PARENTS, Attachment, Filters
from redirect.layout import GUARDS
from redirect.pins import Pins
from redirect.rt_writes import CLSACT

BEHIND = dict(zip(GUARDS, ("from_pod", "to_pod"), strict=True))
"""Whose hook each has."""
HANDLES = (0x7A76, 0x7A77)
AT_ONCE = 32
"""Interfaces that one turn looks at whatever it takes: a guard that somebody took off is missed after as many turns as
there are times this many pods. Then it goes on with those that are to get one, for as long as it was given."""
MOVES = 3


class Guards:
    """Those of one instance. `filters`: the programs' own; `program_fd`, `program_id`: of this generation, by name."""

    def __init__(
        self,
        instance: str,
        pins: Pins,
        filters: Filters,
        program_fd: Callable[[str], int],
        program_id: Callable[[str], int],
    ) -> None:
        parents = {guard: PARENTS[program] for guard, program in BEHIND.items()}
        self._filters = Filters(instance, pins, parents, HANDLES, behind=filters)
        self._program_fd = program_fd
        self._program_id = program_id
        self._looked_at: dict[int, bool] = {}
        """Whether interfaces may have guards, those first that were looked at longest ago: who can have none takes
        nobody else's turn."""
        self._refused: dict[int, str] = {}
        self._moves: dict[int, int] = {}
        """How often one after the other a look found a guard behind others, and put it ahead."""
        self.behind: dict[int, str] = {}
        """Interfaces whose guards stay behind programs of others, and who those are."""
        self._is_begun = False

    def keep(
        self, wanted: Collection[int], is_whole: Callable[[int], bool], at_most_s: float = 0.0
    ) -> list[str]:
        """Has guards at these interfaces and at no others, as far as this turn goes; what changed, in lines.

        `is_whole`: whether both programs of this generation run at an interface: behind others a guard would drop all.
        """
        until_s = time.monotonic() + at_most_s
        qdiscs = tc_rows.ingress_qdiscs()
        self._filters.forget_qdiscs(qdiscs)
        self._begin()
        done = []
        with netlink.one_socket():
            for ifindex in list(self._looked_at.keys() - set(wanted)):
                done += self._forget(ifindex)
            lost = [
                at for at, has_guards in self._looked_at.items() if has_guards and qdiscs.get(at) != CLSACT
            ]
            fresh = [ifindex for ifindex in sorted(wanted) if ifindex not in self._looked_at]
            for number, ifindex in enumerate(dict.fromkeys([*lost, *fresh, *self._looked_at])):
                if number >= AT_ONCE and time.monotonic() >= until_s:
                    break
                if number >= AT_ONCE and not self._is_to_come(ifindex):
                    continue
                kind = qdiscs.get(ifindex, "")
                self._looked_at[ifindex] = self._looked_at.pop(ifindex, False) and kind == CLSACT
                if is_whole(ifindex):
                    done += self._ensure(ifindex, kind)
        return done

    def _is_to_come(self, ifindex: int) -> bool:
        return not self._looked_at.get(ifindex) and ifindex not in self._refused

    @property
    def is_anywhere(self) -> bool:
        """Whether there is any on this node."""
        return bool(self._filters.attached())

    def attached(self) -> dict[tuple[int, str], Attachment]:
        """By (ifindex, guard), of whatever generation. Raises OSError."""
        return self._filters.attached()

    def program_ids(self) -> Iterable[int]:
        """Of those. Raises OSError."""
        return [each.program_id for each in self.attached().values()]

    def remove_all(self) -> list[str]:
        """What was removed. Raises OSError."""
        return [
            line
            for ifindex in sorted({at for at, _ in self._filters.attached()})
            for line in self._take_off(ifindex)
        ]

    def restore_marks(self) -> None:
        self._filters.restore_marks()

    def _begin(self) -> None:
        """What an agent before this one has left."""
        if not self._is_begun:
            self._looked_at = dict.fromkeys((ifindex for ifindex, _ in self._filters.attached()), True)
            self._is_begun = True

    def _ensure(self, ifindex: int, kind: str) -> list[str]:
        """`kind`: of the qdisc in the place of clsact."""
        if kind == "ingress":
            return self._refuse(ifindex, "an `ingress` qdisc of somebody else leaves no room for its clsact")
        try:
            found = self._filters.attached_at(ifindex)
            missing = [
                guard
                for guard in GUARDS
                if (ifindex, guard) not in found
                or found[ifindex, guard].program_id != self._program_id(guard)
            ]
            for guard in missing:
                self._filters.put(ifindex, guard, self._program_fd(guard), kind)
                kind = CLSACT
            before = {at: each.ahead for (_, at), each in found.items() if at not in missing and each.ahead}
            moved = self._go_ahead(ifindex, before)
        except (RedirectError, OSError) as error:
            self._looked_at[ifindex] = kind == CLSACT
            return self._refuse(ifindex, str(error))
        self._looked_at[ifindex] = True
        if ifindex in self.behind:
            return self._refuse(ifindex, f"{self.behind[ifindex]}, and came back each time")
        self._refused.pop(ifindex, None)
        return [*(f"put {guard} at interface {ifindex}" for guard in missing), *moved]

    def _go_ahead(self, ifindex: int, before: Mapping[str, str]) -> list[str]:
        """`before`: who is before the guards that are behind others, in words. Raises StepFailed, OSError."""
        moves = self._moves.pop(ifindex, 0)
        self.behind.pop(ifindex, None)
        if not before:
            return []
        self._moves[ifindex] = moves + 1
        if moves >= MOVES:
            self.behind[ifindex] = "; ".join(
                f"{who} has packets before {guard}" for guard, who in before.items()
            )
            return []
        for guard in before:
            self._filters.move_ahead(ifindex, guard, self._program_fd(guard))
        return [f"put {guard} of interface {ifindex} before {who}" for guard, who in before.items()]

    def _refuse(self, ifindex: int, why: str) -> list[str]:
        """Said once: the pod is captured all the same, and closed as long as somebody holds its links."""
        is_news = self._refused.get(ifindex) != why
        self._refused[ifindex] = why
        return [f"interface {ifindex} has no guard: {why}"] if is_news else []

    def _forget(self, ifindex: int) -> list[str]:
        self._refused.pop(ifindex, None)
        self._moves.pop(ifindex, None)
        self.behind.pop(ifindex, None)
        if self._looked_at[ifindex]:
            return self._take_off(ifindex)
        del self._looked_at[ifindex]
        return []

    def _take_off(self, ifindex: int) -> list[str]:
        """One that the kernel keeps stays among those that were looked at: it is tried again with the next turn."""
        with suppress(OSError):
            for guard in GUARDS:
                self._filters.detach(ifindex, guard)
            self._looked_at.pop(ifindex, None)
            return [f"took the guards off interface {ifindex}"]
        return []
