"""Enrolment step by step with a kernel side that can refuse: who is captured, who is told, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from agent.enroll.desired import EnrolledPod, EnrolmentRefused
from agent.enroll.enroller import Enroller
from agent.model.address import parse_ip
from agent.model.identity import Identity
from agent.state.apply import Changes
from agent.state.store import Store
from redirect.errors import StepFailed, StepsFailed
from redirect.topology import Place
from tests.support import mesh


def place(number: int, refusal: str = "") -> Place:
    return Place(number, f"veth{number}", (parse_ip(f"10.0.0.{number}"),), b"\x02" * 6, refusal)


class FakeKernel:
    """Remembers what it was asked to capture; fails for the interfaces in `failing`."""

    def __init__(self) -> None:
        self.pins: tuple[Place, ...] = ()
        self.present = frozenset(range(1, 10))
        self.captures: list[set[str]] = []
        self.failing: set[str] = set()

    async def captured(self) -> tuple[Place, ...]:
        return self.pins

    async def interfaces(self) -> frozenset[int]:
        return self.present

    async def capture(
        self, pods: Iterable[EnrolledPod], unknown: Iterable[Place], *, keep_existing: bool
    ) -> list[str]:
        names = {pod.ifname for pod in pods} | {each.ifname for each in unknown}
        self.captures.append(names)
        failures = [StepFailed(f"{name}: attach", "no such device") for name in sorted(names & self.failing)]
        if len(failures) > 1:
            raise StepsFailed(failures)
        for failure in failures:
            raise failure
        return []


class World:
    def __init__(self, *workloads: Any) -> None:
        self.kernel = FakeKernel()
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
        return lambda: self.enroller.enroll(place(number), "apps", name, keep_existing=False)


ONE, TWO = mesh.workload("one", "10.0.0.1", service_account="one"), mesh.workload("two", "10.0.0.2")


def test_certificate_then_workers_then_kernel_then_the_news() -> None:
    world = World(ONE)
    world.run(world.enroller.adopt, world.enroll(1, "one"))
    kinds = [event[0] for event in world.events if event != ("workers", []) and event != ("announced", [])]
    assert kinds == ["certificate", "workers", "workers", "announced"]
    assert world.kernel.captures[-1] == {"veth1"}


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
    assert world.kernel.captures[-1] == {"veth1"}
    assert world.enroller.pods == {} and not world.enroller.is_settled
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
    assert list(world.enroller.pods) == ["apps/one"]


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
    assert all("veth1" not in names for names in world.kernel.captures)


def test_a_pod_the_kernel_refuses_is_not_reported_enrolled() -> None:
    world = World(ONE, TWO)
    world.kernel.failing = {"veth1"}
    world.run(world.enroller.adopt)
    with pytest.raises(EnrolmentRefused, match="apps/one was not captured: veth1: attach"):
        world.run(world.enroll(1, "one"))
    assert world.enroller.pods == {}
    assert ("announced", ["one"]) not in world.events


def test_another_pods_trouble_neither_fails_this_enrolment_nor_lets_it_go() -> None:
    world = World(ONE, TWO)
    world.run(world.enroller.adopt, world.enroll(1, "one"))
    world.kernel.failing = {"veth1"}
    world.run(world.enroll(2, "two"))
    assert set(world.enroller.pods) == {"apps/one", "apps/two"}
    assert world.enroller.kernel_trouble == ("veth1: attach: no such device",)
    world.kernel.failing = set()
    world.run(world.enroller.refresh)
    assert world.enroller.kernel_trouble == ()


def test_a_kernel_that_refuses_at_a_restart_ends_nothing() -> None:
    world = World(ONE, TWO)
    world.kernel.pins = (place(1), place(2))
    world.kernel.failing = {"veth1", "veth2"}
    world.run(world.enroller.adopt)
    assert len(world.enroller.kernel_trouble) == 2
    assert set(world.enroller.pods) == {"apps/one", "apps/two"}


def test_a_pod_whose_interface_goes_is_forgotten() -> None:
    world = World(ONE, TWO)
    world.run(world.enroller.adopt, world.enroll(1, "one"), world.enroll(2, "two"))
    world.kernel.present = frozenset({2})
    world.run(world.enroller.refresh)
    assert list(world.enroller.pods) == ["apps/two"]
    assert world.events[-1] == ("announced", ["two"])


def test_peers_hear_of_a_leaving_pod_before_it_goes() -> None:
    world = World(ONE)
    world.run(world.enroller.adopt, world.enroll(1, "one"))
    world.events.clear()
    world.run(lambda: world.enroller.unenroll("apps", "one"))
    assert world.events[0] == ("announced", [])
    assert world.kernel.captures[-1] == set()
    with pytest.raises(EnrolmentRefused, match="not enrolled here"):
        world.run(lambda: world.enroller.unenroll("apps", "one"))


def test_an_interface_that_cannot_be_captured_is_refused_with_its_reason() -> None:
    world = World(ONE)
    world.run(world.enroller.adopt)
    with pytest.raises(EnrolmentRefused, match="it is a macvlan"):
        world.run(
            lambda: world.enroller.enroll(place(1, "it is a macvlan"), "apps", "one", keep_existing=False)
        )
