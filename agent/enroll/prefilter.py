"""Has programs of the kernel deny what workers would, where addresses and ports say it all, and keeps the two in step.

What a program denies, workers deny too, at any time. So when what an address is judged by changes, its entry is taken
away first, before workers are told, and at once: a map write from the event loop. Meanwhile they judge its connections
alone. Only when all of them judge by the new state is it written down for programs too. The same with pods that come
and go.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.kernel import KernelSide
from agent.model.address import IP
from agent.policy.prefilter import Cell, Judged, cells, judged
from agent.state.apply import Changes
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from redirect.errors import MapFull, RedirectError
from redirect.findings import Finding, of_prefilter
from redirect.prefilter import PrefilterMaps, Source
from redirect.reconcile import Redirection

log = logging.getLogger(__name__)

TOO_MANY_CELLS = "its policies name too many addresses and ports"


class Target(NamedTuple):
    """An address of a served pod, where it is, and what decides about connections to it."""

    address: IP
    ifindex: int
    by: Judged


class WrittenSet(NamedTuple):
    """A set of denials in the kernel. No number: nobody is denied, or `fault` says why it is left to workers."""

    number: int | None
    cells: tuple[Cell, ...] = ()
    fault: str = ""


class Prefilter:
    """One per agent; `begin` before workers are told anything, then `run`. What is no coroutine waits for nothing."""

    def __init__(
        self,
        store: Store,
        kernel: KernelSide,
        *,
        is_on: bool,
        open_maps: Callable[[Redirection], PrefilterMaps] = lambda it: PrefilterMaps(it.pins.generation),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._kernel = kernel
        self._is_on = is_on
        self._open_maps = open_maps
        self._maps: PrefilterMaps | None = None
        self._pods: tuple[EnrolledPod, ...] = ()
        self._wanted: dict[IP, Target] = {}
        self._linked: dict[IP, Target] = {}
        self._sets: dict[Judged, WrittenSet] = {}
        self._is_settled = True
        """All workers judge by the current state."""
        self._is_due = asyncio.Event()
        self._past: dict[str, int] = {}
        """By reason, what sets have denied that are gone."""
        self._fault = ""
        self._monotonic = monotonic
        self._look_from_s = 0.0

    async def begin(self) -> None:
        """Open the maps, and take away what an earlier agent has written. Raises RedirectError, OSError."""
        self._maps = await self._kernel.run(self._open_maps)
        maps = self._maps
        await self._kernel.run(lambda _: maps.clear())

    def close(self) -> None:
        if self._maps is not None:
            self._maps.close()
            self._maps = None

    # -- what has changed

    def state_changed(self, snapshot: Snapshot, changes: Changes) -> None:
        """The state is another one, and workers have not been told yet."""
        self._is_settled = False
        if changes.policies or changes.workloads:
            self._loosen(snapshot)

    def settled(self) -> None:
        """Workers judge by the state as it is."""
        self._is_settled = True
        self._is_due.set()

    def serve(self, pods: Iterable[EnrolledPod]) -> None:
        """These pods are served, and nobody else."""
        self._pods = tuple(pods)
        self._loosen(self._store.current)
        self._is_due.set()

    def _loosen(self, snapshot: Snapshot) -> None:
        """Note what decides about whom, and take away what was written by anything else."""
        if not self._is_on or self._maps is None:
            return
        self._wanted = {target.address: target for target in targets(snapshot, self._pods)}
        for address, target in tuple(self._linked.items()):
            if self._wanted.get(address) != target:
                self._maps.unlink(address)
                del self._linked[address]

    # -- what follows

    async def run(self) -> None:
        """Write down for programs what workers judge by, whenever that is another; until cancelled."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            if self._is_on and self._is_settled:
                try:
                    await self._tighten()
                except (RedirectError, OSError) as error:
                    self._fault = f"the maps of programs cannot be written: {error}"
                    log.error("policies are left to workers: %s", self._fault)

    async def _tighten(self) -> None:
        maps = self._maps
        assert maps is not None, "begun before it runs"
        self._fault = ""
        for target in tuple(self._wanted.values()):
            if target.by not in self._sets:
                self._sets[target.by] = await self._written(maps, target.by)
            number = self._sets[target.by].number
            # From here on nothing is waited for: what is linked is what is wanted now, and what all workers judge by.
            if not self._is_settled:
                return  # comes again with `settled`
            if number is not None and self._wanted.get(target.address) == target != self._linked.get(
                target.address
            ):
                try:
                    maps.link(target.address, target.ifindex, number)
                except MapFull as error:
                    self._fault = str(error)
                    continue
                self._linked[target.address] = target
        await self._forget(maps)

    async def _written(self, maps: PrefilterMaps, by: Judged) -> WrittenSet:
        found = await asyncio.to_thread(cells, by)
        if not found:
            return WrittenSet(None, fault=TOO_MANY_CELLS if found is None else "")
        sources = sources_of(found)
        try:
            return WrittenSet(await self._kernel.run(lambda _: maps.put_set(sources)), found)
        except MapFull as error:
            log.warning("policies are left to workers: %s", error)
            return WrittenSet(None, fault=str(error))

    async def _forget(self, maps: PrefilterMaps) -> None:
        """Delete the sets that nobody is judged by any more, with what they have counted noted."""
        used = {target.by for target in (*self._wanted.values(), *self._linked.values())}
        gone = [by for by in self._sets if by not in used]
        if not gone:
            return
        self._past = await self._counted(maps, gone)
        for by in gone:
            await self._drop(maps, self._sets.pop(by))
        # What had no room may have some now.
        for by in [by for by, each in self._sets.items() if each.fault not in ("", TOO_MANY_CELLS)]:
            del self._sets[by]
            self._is_due.set()

    async def _drop(self, maps: PrefilterMaps, written: WrittenSet) -> None:
        number, sources = written.number, sources_of(written.cells)
        if number is not None:
            await self._kernel.run(lambda _: maps.drop_set(number, sources))

    async def _counted(self, maps: PrefilterMaps, some: Iterable[Judged]) -> dict[str, int]:
        """What was noted, and what these sets have denied."""
        totals = dict(self._past)
        reasons = {
            (number, source): cell.reason
            for by in some
            if (number := self._sets[by].number) is not None
            for source, cell in zip(sources_of(self._sets[by].cells), self._sets[by].cells, strict=True)
        }
        if reasons:
            for number, source, packets in await self._kernel.run(lambda _: list(maps.packets(reasons))):
                reason = reasons[number, source]
                totals[reason] = totals.get(reason, 0) + packets
        return totals

    # -- what somebody else has changed

    async def prove(self, *, at_leisure: bool = False) -> tuple[Finding, ...]:
        """Where the maps are not as they were left; `at_leisure`: unless that took long of late. Raises OSError."""
        maps, began_s = self._maps, self._monotonic()
        if maps is None or (at_leisure and began_s < self._look_from_s):
            return ()
        found = await self._kernel.run(lambda _: maps.drift())
        # Tens of thousands of entries take a kernel without batches a while: it takes a fiftieth of a core at most.
        ended_s = self._monotonic()
        self._look_from_s = 0.0 if found else ended_s + 49 * (ended_s - began_s)
        return tuple(of_prefilter(found))

    async def mend(self) -> None:
        """Have the maps as they were left. Raises MapFull, OSError."""
        maps = self._maps
        if maps is not None:
            for words in await self._kernel.run(
                lambda redirection: redirection.repairs.of_prefilter(maps.mend())
            ):
                log.info("kernel: %s", words)

    # -- what is said of it

    async def packets(self) -> Mapping[str, int]:
        """How many SYNs programs have denied, by the reason that the access log has. Raises OSError."""
        return self._past if self._maps is None else await self._counted(self._maps, tuple(self._sets))

    def summary(self) -> dict[str, object]:
        """What `ztun status` has of it. `left_to_workers`: why some policies are."""
        faults = {each.fault for each in self._sets.values() if each.fault} | (
            {self._fault} if self._fault else set()
        )
        return {
            "is_on": self._is_on,
            "addresses": len(self._linked),
            "entries": sum(len(each.cells) for each in self._sets.values()),
            "left_to_workers": sorted(faults),
        }


def targets(snapshot: Snapshot, pods: Iterable[EnrolledPod]) -> Iterable[Target]:
    """The addresses of served pods, as workers know whose they are, with what decides about each."""
    # A namespace's pods have one set of policies in common, and that is large: it is looked through once.
    known: dict[tuple[int, IP | None], Judged] = {}
    for pod in pods:
        workload = snapshot.local_workload(pod.namespace, pod.name, pod.service_account)
        if workload is None:
            continue
        policies = snapshot.policies_for(workload)
        for address in pod.addresses:
            if address not in workload.addresses:
                continue
            by = known.get((id(policies), None))
            if by is None or by.address is not None:
                by = judged(policies, address)
                by = known.setdefault((id(policies), by.address), by)
            yield Target(address, pod.place.ifindex, by)


def sources_of(found: Iterable[Cell]) -> tuple[Source, ...]:
    return tuple(Source(cell.port, cell.sources, bool(cell.reason)) for cell in found)
