"""The host names of workloads that have no address of their own, looked up ahead of whoever dials them.

Of each name the workers hear what is known: its addresses, or why there are none. It is looked up again when its time
is over. Where nobody can say then, what was known holds a while longer; where it is said that there is nothing, it does
not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import nsmallest

from agent.channel import HostNames, Message
from agent.dns.resolver import Found, LookupFailed
from agent.model.address import IP
from agent.model.counted import counted
from agent.state.apply import Changes
from agent.state.host_names import NamedHosts
from agent.state.snapshot import Snapshot
from agent.telemetry import families
from agent.telemetry.metrics import Sample

log = logging.getLogger(__name__)

AT_ONCE = 16
AGAIN_S = 5.0
"""How soon one that failed is looked up again."""
HOLDS_S = 60.0
"""How long addresses hold over their time while no name server says anything."""
STATES = KNOWN, FAILED, ASKED = "known", "failed", "asked"


@dataclass(frozen=True, slots=True)
class Known:
    """Of one name. `due_s`: when it is looked up next; `until_s`: how long the addresses hold if that fails.

    `left_out`: how many addresses it has besides, which nobody dials.
    """

    addresses: tuple[IP, ...] = ()
    error: str = ""
    due_s: float = 0.0
    until_s: float = 0.0
    left_out: int = 0

    def row(self, host: str) -> tuple[str, list[str], str]:
        """As workers are told it."""
        return host, [str(address) for address in self.addresses], self.error


class LooksUp:
    """Looks names up by `look_up`, and tells all workers by `broadcast`. `clock`: monotonic seconds."""

    def __init__(
        self,
        look_up: Callable[[str], Awaitable[Found]],
        broadcast: Callable[[Message], None],
        clock: Callable[[], float],
    ) -> None:
        self._look_up = look_up
        self._broadcast = broadcast
        self._clock = clock
        self._changed = asyncio.Event()
        self._wanted: dict[str, str] = {}
        """By the uids of workloads that have nothing but a name."""
        self.known: Mapping[str, Known] = {}

    def brief(self, send: Callable[[Message], None]) -> None:
        """Tell a worker that has just come all there is."""
        if self.known:
            send(message(self.known))

    def as_told(self) -> NamedHosts:
        """What every worker has been told by now."""
        names = NamedHosts()
        names.told((each.row(host) for host, each in self.known.items()), ())
        return names

    def state_changed(self, snapshot: Snapshot, changes: Changes) -> None:
        for uid in changes.workloads:
            workloads = snapshot.workloads
            workload = workloads.get(uid) if workloads.may_have_hostname(uid) else None
            self._wanted.pop(uid, None)
            if workload is not None and workload.hostname and not workload.addresses:
                self._wanted[uid] = workload.hostname
        wanted = set(self._wanted.values())
        if wanted == self.known.keys():
            return
        gone = self.known.keys() - wanted
        self.known = {host: self.known.get(host, Known()) for host in sorted(wanted)}
        if gone:
            self._broadcast(HostNames((), sorted(gone)))
        self._changed.set()

    def samples(self) -> Iterable[Sample]:
        """Nothing where there are no names."""
        states = [(name_state(known), known.left_out) for known in self.known.values()]
        for state in STATES if states else ():
            yield families.HOST_NAMES, (state,), sum(each == state for each, _ in states)
        if states:
            yield families.HOST_NAME_ADDRESSES_LEFT_OUT, (), sum(left_out for _, left_out in states)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            now_s = self._clock()
            due = [(known.due_s, host) for host, known in self.known.items() if known.due_s <= now_s]
            if due:
                # Who waits longest first: names whose servers say nothing would be all that is ever looked up.
                await asyncio.gather(*(self._refresh(host) for _, host in nsmallest(AT_ONCE, due)))
                continue
            next_s = min((known.due_s for known in self.known.values()), default=None)
            try:
                async with asyncio.timeout(None if next_s is None else max(0.0, next_s - now_s)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _refresh(self, host: str) -> None:
        before = self.known.get(host, Known())
        try:
            found = await self._look_up(host)
        except LookupFailed as error:
            now_s = self._clock()
            if not error.is_final and now_s < before.until_s:
                self._note(host, replace(before, due_s=now_s + AGAIN_S))
                return
            if before.error != str(error):
                log.warning("host name: %s", error)
            self._note(host, Known((), str(error), now_s + AGAIN_S))
            return
        now_s = self._clock()
        if found.left_out and not before.left_out:
            log.warning(
                "host name: %s has %s more than are dialled: some of them, which stay the same, are not",
                host,
                counted(found.left_out, "address", "addresses"),
            )
        due_s = now_s + found.ttl_s
        self._note(host, Known(found.addresses, "", due_s, due_s + HOLDS_S, found.left_out))

    def _note(self, host: str, known: Known) -> None:
        before = self.known.get(host)
        if before is None:
            return  # nobody wants it any more
        self.known = {**self.known, host: known}
        if (known.addresses, known.error) != (before.addresses, before.error):
            self._broadcast(message({host: known}))


def name_state(known: Known) -> str:
    """One of STATES."""
    return KNOWN if known.addresses else FAILED if known.error else ASKED


def message(known: Mapping[str, Known]) -> HostNames:
    return HostNames([each.row(host) for host, each in known.items()])
