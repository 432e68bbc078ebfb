"""Programs and workers in step: taken away before workers are told, written when all of them judge by it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.prefilter import Prefilter
from agent.enroll.wish import PodKey
from agent.model.address import IP, parse_cidr, parse_ip
from agent.model.policy import Match
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from redirect.errors import MapFull
from redirect.prefilter import Source
from tests.support.enrolment import place, until
from tests.support.mesh import allow, batch, deny, workload

ONE, OTHER = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")
NEAR = Match(source_ips=(parse_cidr("10.1.0.0/16"),))
FAR = Match(source_ips=(parse_cidr("192.0.2.0/24"),))


class Maps:
    """Remembers what is written, in order."""

    def __init__(self) -> None:
        self.sets: dict[int, tuple[Source, ...]] = {}
        self.linked: dict[IP, tuple[int, int]] = {}
        self.log: list[str] = []
        self.room = 100
        self.denied: dict[tuple[int, Source], int] = {}
        self._number = 0

    def clear(self) -> None:
        self.log.append("clear")

    def close(self) -> None:
        self.log.append("close")

    def put_set(self, sources: Iterable[Source]) -> int:
        if len(self.sets) >= self.room:
            raise MapFull("denials", self.room)
        self._number += 1
        self.sets[self._number] = tuple(sources)
        self.log.append(f"set {self._number}")
        return self._number

    def drop_set(self, number: int, sources: Collection[Source]) -> None:
        assert self.sets.pop(number) == tuple(sources)
        assert number not in [each for _, each in self.linked.values()], "in use"
        self.log.append(f"drop {number}")

    def link(self, address: IP, ifindex: int, number: int) -> None:
        assert number in self.sets
        self.linked[address] = (ifindex, number)
        self.log.append(f"link {address} {number}")

    def unlink(self, address: IP) -> None:
        del self.linked[address]
        self.log.append(f"unlink {address}")

    def packets(self, entries: Iterable[tuple[int, Source]]) -> Iterator[tuple[int, Source, int]]:
        return ((*entry, self.denied[entry]) for entry in entries if entry in self.denied)


class World:
    def __init__(self, *, is_on: bool = True) -> None:
        self.maps = Maps()
        self.store = Store(Snapshot(node="n1"))

        async def run(work: Any) -> Any:
            await asyncio.sleep(0)
            return work(SimpleNamespace())

        kernel: Any = SimpleNamespace(run=run)
        self.prefilter = Prefilter(self.store, kernel, is_on=is_on, open_maps=lambda _: self.maps)  # type: ignore[arg-type,return-value]
        self.store.subscribe(self.prefilter.state_changed)
        self.is_working = False
        tighten = self.prefilter._tighten

        async def watched() -> None:
            self.is_working = True
            await tighten()
            self.is_working = False

        self.prefilter._tighten = watched  # type: ignore[method-assign]

    def apply(self, *resources: Any, removed: tuple[str, ...] = ()) -> None:
        """A change that workers have not heard of."""
        self.store.apply(replace(batch(*resources), removed_authorizations=removed))

    async def settle(self) -> None:
        """Workers follow, and then programs."""
        self.prefilter.settled()
        await self.rest()

    async def rest(self) -> None:
        """Until all that is to be done by now is done."""
        await until(lambda: not self.is_working and not self.prefilter._is_due.is_set())


def pod(name: str, number: int) -> EnrolledPod:
    return EnrolledPod(PodKey("apps", name), "default", "cluster.local", place(number))


WEB, API = pod("web", 1), pod("api", 2)
MESH = (workload("web", "10.0.0.1"), workload("api", "10.0.0.2"))


@pytest.fixture
def world() -> World:
    return World()


def run(world: World, story: Any) -> None:
    async def whole() -> None:
        await world.prefilter.begin()
        task = asyncio.create_task(world.prefilter.run())
        try:
            await story()
        finally:
            task.cancel()

    asyncio.run(whole())


def test_pods_that_are_judged_alike_have_one_set(world: World) -> None:
    async def story() -> None:
        world.apply(*MESH, deny("d", NEAR))
        world.prefilter.serve([WEB, API])
        await world.settle()
        await until(lambda: len(world.maps.linked) == 2)
        assert world.maps.linked == {ONE: (1, 1), OTHER: (2, 1)}
        assert [source.is_denied for source in world.maps.sets[1]].count(True) == 2
        assert world.maps.log[0] == "clear", "what an earlier agent wrote is gone first"

    run(world, story)


def test_what_changes_is_taken_away_at_once_and_written_when_workers_follow(world: World) -> None:
    async def story() -> None:
        world.apply(*MESH, deny("d", NEAR))
        world.prefilter.serve([WEB])
        await world.settle()
        await until(lambda: ONE in world.maps.linked)
        world.apply(deny("d", FAR))
        assert world.maps.log[-1] == f"unlink {ONE}", "before anybody else hears of it"
        world.prefilter.serve([WEB])  # wakes it
        await world.rest()
        assert not world.maps.linked, "workers do not judge by it yet"
        await world.settle()
        await until(lambda: world.maps.linked == {ONE: (1, 2)})
        await until(lambda: set(world.maps.sets) == {2})
        assert world.maps.log.index(f"unlink {ONE}") < world.maps.log.index("set 2")

    run(world, story)


def test_what_changes_nothing_for_a_pod_leaves_its_entry(world: World) -> None:
    async def story() -> None:
        world.apply(*MESH, deny("d", NEAR))
        world.prefilter.serve([WEB])
        await world.settle()
        await until(lambda: ONE in world.maps.linked)
        world.apply(workload("other", "10.0.0.9"), deny("x", NEAR, namespace="shop"))
        await world.settle()
        assert [line for line in world.maps.log if line.startswith("unlink")] == []
        assert list(world.maps.sets) == [1]

    run(world, story)


def test_a_pod_that_goes_or_moves_takes_its_entry_along(world: World) -> None:
    async def story() -> None:
        world.apply(*MESH, deny("d", NEAR))
        world.prefilter.serve([WEB, API])
        await world.settle()
        await until(lambda: len(world.maps.linked) == 2)
        moved = EnrolledPod(WEB.key, "default", "cluster.local", place(5, "10.0.0.1"))
        world.prefilter.serve([moved])
        assert not world.maps.linked
        await until(lambda: world.maps.linked == {ONE: (5, 1)})
        world.apply(removed=("apps/d",))
        assert not world.maps.linked
        await world.settle()
        await until(lambda: not world.maps.sets)

    run(world, story)


def test_a_change_while_a_set_is_written_is_not_linked(world: World) -> None:
    async def story() -> None:
        world.apply(*MESH, deny("d", NEAR))
        put = world.maps.put_set

        def meanwhile(sources: Iterable[Source]) -> int:
            number = put(sources)
            world.maps.put_set = put  # type: ignore[method-assign]
            world.apply(deny("d", FAR))
            return number

        world.maps.put_set = meanwhile  # type: ignore[method-assign]
        world.prefilter.serve([WEB])
        await world.settle()
        assert not world.maps.linked
        await world.settle()
        await until(lambda: world.maps.linked == {ONE: (1, 2)})
        await until(lambda: set(world.maps.sets) == {2})

    run(world, story)


def test_what_has_no_room_is_left_to_workers_and_said_and_tried_again(world: World) -> None:
    async def story() -> None:
        world.maps.room = 1
        shop = EnrolledPod(PodKey("shop", "till"), "default", "cluster.local", place(3))
        world.apply(
            *MESH,
            workload("till", "10.0.0.3", namespace="shop"),
            deny("d", NEAR),
            deny("d", FAR, namespace="shop"),
        )
        world.prefilter.serve([WEB, shop])
        await world.settle()
        assert len(world.maps.linked) == 1
        (said,) = world.prefilter.summary()["left_to_workers"]  # type: ignore[misc]
        assert "map denials is full" in said
        kept = next(iter(world.maps.linked))
        world.prefilter.serve([shop if kept == ONE else WEB])
        await until(lambda: len(world.maps.linked) == 1 and kept not in world.maps.linked)
        await world.rest()
        assert world.prefilter.summary()["left_to_workers"] == []

    run(world, story)


def test_too_much_to_judge_is_left_to_workers_and_said(world: World) -> None:
    async def story() -> None:
        ranges = tuple(parse_cidr(f"10.{n}.0.0/16") for n in range(200))
        many = Match(source_ips=ranges, destination_ports=tuple(range(1, 200)))
        world.apply(*MESH, deny("d", many))
        world.prefilter.serve([WEB])
        await world.settle()
        assert not world.maps.linked
        assert world.prefilter.summary()["left_to_workers"] == [
            "its policies name too many addresses and ports"
        ]

    run(world, story)


def test_what_was_denied_is_counted_by_reason_and_outlives_its_set(world: World) -> None:
    async def story() -> None:
        world.apply(*MESH, deny("d", NEAR), allow("a", FAR))
        world.prefilter.serve([WEB])
        await world.settle()
        await until(lambda: ONE in world.maps.linked)
        for source in world.maps.sets[1]:
            world.maps.denied[1, source] = 5 if source.range in NEAR.source_ips else 0
        assert (await world.prefilter.packets())["explicitly denied by: apps/d"] == 10
        world.apply(removed=("apps/d",))
        await world.settle()
        await until(lambda: set(world.maps.sets) == {2})
        assert (await world.prefilter.packets())["explicitly denied by: apps/d"] == 10

    run(world, story)


def test_off_writes_nothing_but_takes_away() -> None:
    world = World(is_on=False)

    async def story() -> None:
        world.apply(*MESH, deny("d", NEAR))
        world.prefilter.serve([WEB])
        await world.settle()
        assert world.maps.log == ["clear"]

    run(world, story)
