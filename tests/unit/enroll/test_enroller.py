"""Enrolment step by step with a kernel side that can refuse: who is captured, who is told, and in which order."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from agent.enroll.enrolled_pod import EnrolledPod, EnrolmentRefused
from agent.enroll.enroller import Enroller
from agent.enroll.kernel import Applied
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey, Where, Wish
from agent.model.address import parse_ip
from agent.model.identity import Identity
from agent.state.apply import Changes
from agent.state.store import Store
from redirect.errors import RedirectError, StepFailed
from redirect.locate import Place
from tests.support import mesh


def place(number: int, refusal: str = "") -> Place:
    return Place(number, f"veth{number}", (parse_ip(f"10.0.0.{number}"),), b"\x02" * 6, (), refusal)


class FakeKernel:
    """Remembers what it was asked to capture; fails for the interfaces in `failing`."""

    def __init__(self) -> None:
        self.places = {f"veth{number}": place(number) for number in range(1, 10)}
        self.pins: tuple[Place, ...] = ()
        self.present = frozenset(range(1, 10))
        self.captures: list[set[Place]] = []
        self.failing: set[int] = set()

    @property
    def last(self) -> set[str]:
        return {place.ifname for place in self.captures[-1]}

    async def locate(self, where: Where) -> Place:
        return self.places[where.ifname or ""]

    async def captured(self) -> tuple[Place, ...]:
        return self.pins

    async def interfaces(self) -> frozenset[int]:
        return self.present

    async def capture(self, places: Iterable[Place], *, keep_existing: bool) -> Applied:
        self.captures.append(set(places))
        failures: list[RedirectError] = [
            StepFailed(f"{each.ifname}: attach", "no such device", each.ifindex)
            for each in sorted(self.captures[-1], key=lambda each: each.ifindex)
            if each.ifindex in self.failing
        ]
        return Applied(failures=tuple(failures))


class World:
    def __init__(self, *workloads: Any) -> None:
        self.kernel = FakeKernel()
        self.now_s = 1000.0
        self.store = Store(mesh.snapshot(*workloads))
        self.events: list[Any] = []
        self.on_announced: Callable[[], None] = lambda: None
        self.certify: Callable[[Identity], Awaitable[object]] = self._certified
        self.enroller = Enroller(
            "n1",
            "",
            self.store,
            self.kernel,  # type: ignore[arg-type]
            lambda identity: self.certify(identity),
            lambda identities: None,
            lambda pods: self.events.append(("workers", sorted(pod.name for pod in pods))),
            self._announced,
            lambda: self.now_s,
        )

    def _announced(self, pods: Iterable[EnrolledPod]) -> None:
        self.events.append(("announced", sorted(pod.name for pod in pods)))
        self.on_announced()

    async def _certified(self, identity: Identity) -> object:
        self.events.append(("certificate", identity.service_account))
        return object()

    def run(self, *steps: Callable[[], Awaitable[Any]]) -> list[Any]:
        async def all_of_them() -> list[Any]:
            return [await step() for step in steps]

        return asyncio.run(all_of_them())

    def enroll(self, number: int, name: str) -> Callable[[], Awaitable[Any]]:
        wish = Wish(PodKey("apps", name), Where(ifname=f"veth{number}"))
        return lambda: self.enroller.enroll(wish, keep_existing=False)

    def pods(self) -> list[str]:
        return sorted(map(str, self.enroller.pods))

    def troubles(self) -> list[tuple[Missing, str, str]]:
        return [(each.missing, str(each.pod), str(each)) for each in self.enroller.troubles]


ONE, TWO = mesh.workload("one", "10.0.0.1", service_account="one"), mesh.workload("two", "10.0.0.2")


def test_certificate_then_workers_then_kernel_then_the_news() -> None:
    world = World(ONE)
    world.run(world.enroller.adopt, world.enroll(1, "one"))
    kinds = [event[0] for event in world.events if event != ("workers", []) and event != ("announced", [])]
    assert kinds == ["certificate", "workers", "workers", "announced"]
    assert world.kernel.last == {"veth1"}


def test_nothing_is_let_go_before_the_pods_of_the_pins_are_known() -> None:
    world = World(ONE)
    world.kernel.pins = (place(1),)
    world.run(world.enroller.refresh)
    assert world.kernel.captures == [], (
        "netlink news before the first complete state must not apply an empty set"
    )
    with pytest.raises(EnrolmentRefused, match="no complete state"):
        world.run(world.enroll(1, "one"))
    assert world.kernel.captures == []


def test_a_pod_of_the_pins_that_nobody_knows_stays_captured_and_is_taken_up_later() -> None:
    world = World()
    world.kernel.pins = (place(1),)
    world.run(world.enroller.adopt)
    assert world.kernel.last == {"veth1"}
    assert world.pods() == [] and [each[0] for each in world.troubles()] == [Missing.POD]
    world.store.swap(mesh.snapshot(ONE), mesh_change())

    async def follow_once() -> None:
        task = asyncio.ensure_future(world.enroller.follow())
        announced = asyncio.Event()
        world.on_announced = announced.set
        await announced.wait()
        task.cancel()

    world.store.subscribe(world.enroller.state_changed)
    world.enroller.state_changed(world.store.current, mesh_change())
    world.run(follow_once)
    assert world.pods() == ["apps/one"] and not world.troubles()


def mesh_change() -> Changes:
    return Changes(workloads=frozenset({"x"}))


def test_no_certificate_means_no_capture() -> None:
    world = World(ONE)

    async def refused(identity: Identity) -> object:
        raise EnrolmentRefused("the CA refuses")

    world.certify = refused
    world.run(world.enroller.adopt)
    with pytest.raises(EnrolmentRefused, match="CA refuses"):
        world.run(world.enroll(1, "one"))
    assert not any(world.kernel.captures)


def test_a_pod_the_kernel_refuses_is_not_reported_enrolled() -> None:
    world = World(ONE, TWO)
    world.kernel.failing = {1}
    world.run(world.enroller.adopt)
    with pytest.raises(EnrolmentRefused, match="apps/one was not captured: veth1: attach"):
        world.run(world.enroll(1, "one"))
    assert world.pods() == [] and not world.enroller.wishes
    assert ("announced", ["one"]) not in world.events


def test_another_pods_trouble_neither_fails_this_enrolment_nor_lets_it_go() -> None:
    world = World(ONE, TWO)
    world.run(world.enroller.adopt, world.enroll(1, "one"))
    world.kernel.failing = {1}
    world.run(world.enroll(2, "two"))
    assert world.pods() == ["apps/one", "apps/two"]
    assert world.troubles() == [(Missing.CAPTURE, "apps/one", "veth1: attach: no such device")]
    world.now_s += 5
    world.run(world.enroller.refresh)
    assert [each.since_s for each in world.enroller.troubles] == [1000.0], "since it was first seen"
    world.kernel.failing = set()
    world.run(world.enroller.refresh)
    assert world.troubles() == []


def test_a_kernel_that_refuses_at_a_restart_ends_nothing() -> None:
    world = World(ONE, TWO)
    world.kernel.pins = (place(1), place(2))
    world.kernel.failing = {1, 2}
    world.run(world.enroller.adopt)
    assert [(missing, pod) for missing, pod, _ in world.troubles()] == [
        (Missing.CAPTURE, "apps/one"),
        (Missing.CAPTURE, "apps/two"),
    ]
    assert world.pods() == ["apps/one", "apps/two"]


def test_a_pod_whose_interface_goes_is_forgotten() -> None:
    world = World(ONE, TWO)
    world.run(world.enroller.adopt, world.enroll(1, "one"), world.enroll(2, "two"))
    world.kernel.present = frozenset({2})
    world.run(world.enroller.refresh)
    assert world.pods() == ["apps/two"]
    assert world.events[-1] == ("announced", ["two"])


def test_peers_hear_of_a_leaving_pod_before_it_goes() -> None:
    world = World(ONE)
    world.run(world.enroller.adopt, world.enroll(1, "one"))
    world.events.clear()
    world.run(lambda: world.enroller.unenroll(PodKey("apps", "one")))
    assert world.events[0] == ("announced", [])
    assert world.kernel.captures[-1] == set() and not world.enroller.wishes
    with pytest.raises(EnrolmentRefused, match="not enrolled here"):
        world.run(lambda: world.enroller.unenroll(PodKey("apps", "one")))


def test_an_interface_that_cannot_be_captured_is_refused_with_its_reason() -> None:
    world = World(ONE)
    world.kernel.places["veth1"] = place(1, "it is a macvlan")
    world.run(world.enroller.adopt)
    with pytest.raises(EnrolmentRefused, match="it is a macvlan"):
        world.run(world.enroll(1, "one"))


@pytest.mark.parametrize(
    "found",
    [
        place(1, "it has more than one interface"),
        dataclasses.replace(place(1), addresses=(parse_ip("10.0.0.9"),)),
    ],
    ids=["not-capturable", "other-address"],
)
def test_a_refused_enrolment_changes_nothing_of_what_is_captured(found: Place) -> None:
    world = World(ONE)
    world.run(world.enroller.adopt, world.enroll(1, "one"))
    world.kernel.places["veth1"] = found
    with pytest.raises(EnrolmentRefused):
        world.run(world.enroll(1, "one"))
    world.run(world.enroller.refresh)
    assert world.kernel.captures[-1] == {place(1)}
