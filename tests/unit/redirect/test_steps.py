"""Steps carried out against maps that changed since the plan was made, and failures that name their pod."""

from __future__ import annotations

import errno
from contextlib import nullcontext
from ipaddress import ip_address

import pytest

from redirect import steps as module
from redirect.errors import MapFull, RedirectError, StepFailed
from redirect.layout import IP, NO_ADDRESS, Flag, IfaceEntry, PodEntry
from redirect.plan import Attach, DeletePod, DestroySockets, PutHostAddress, PutIface, Step
from redirect.side import Side, sides_of
from redirect.steps import Executor, Outcome

ADDRESS = ip_address("10.0.0.1")
NAMES = {3: "veth3", 4: "veth4"}
CLOSED = IfaceEntry(Flag.ENROLLED, NO_ADDRESS, NO_ADDRESS)


class FakeMaps:
    """The maps that steps of these tests meet."""

    def __init__(self) -> None:
        self.pods: dict[IP, PodEntry] = {}
        self.ifaces: dict[int, IfaceEntry] = {}
        self.is_full = False

    def pod(self, address: IP) -> PodEntry | None:
        return self.pods.get(address)

    def delete_pod(self, address: IP) -> bool:
        return self.pods.pop(address, None) is not None

    def put_iface(self, ifindex: int, entry: IfaceEntry) -> None:
        if self.is_full:
            raise MapFull("ifaces", 2)
        self.ifaces[ifindex] = entry

    def put_host_address(self, address: IP) -> None:
        raise OSError(errno.EPERM, "not permitted")


class FakeAttachments:
    """Attaches to what is not in `failing`."""

    def __init__(self) -> None:
        self.attached: list[tuple[int, str]] = []
        self.failing: set[int] = set()
        self.expected: list[int] = []

    def expect(self, count: int) -> None:
        self.expected.append(count)

    def attach(self, ifindex: int, program: str) -> None:
        if ifindex in self.failing:
            raise OSError(errno.ENODEV, "no such device")
        self.attached.append((ifindex, program))


class Rig:
    def __init__(self) -> None:
        self.maps, self.attachments = FakeMaps(), FakeAttachments()
        self.sides: tuple[Side, ...] = ()

    def apply(self, *steps: Step) -> Outcome:
        executor = Executor(self.maps, self.attachments, self.sides, None)  # type: ignore[arg-type]
        return executor.apply(steps, NAMES)


@pytest.mark.parametrize(("owner", "is_left"), [(3, False), (4, True)])
def test_an_address_is_released_only_while_it_is_still_that_pods(owner: int, is_left: bool) -> None:
    """It may have moved to another pod since the plan was made: that one must not lose it."""
    rig = Rig()
    rig.maps.pods[ADDRESS] = PodEntry(Flag.ENROLLED, owner, bytes(6), bytes(6), 1500, 1460)
    rig.apply(DeletePod(ADDRESS, 3))
    assert (ADDRESS in rig.maps.pods) is is_left


def test_an_address_that_is_gone_already_is_nothing_to_do() -> None:
    assert Rig().apply(DeletePod(ADDRESS, 3)) == Outcome(["release 10.0.0.1 from interface 3"], ())


def test_a_failure_ends_the_steps_of_its_pod_and_of_no_other() -> None:
    rig = Rig()
    rig.attachments.failing = {3}
    outcome = rig.apply(Attach(3, "from_pod"), PutIface(3, CLOSED), Attach(4, "from_pod"))
    (failure,) = outcome.failures
    assert isinstance(failure, StepFailed) and failure.ifindex == 3
    assert str(failure).startswith("veth3: attach from_pod to interface 3: the interface is gone")
    assert rig.maps.ifaces == {} and rig.attachments.attached == [(4, "from_pod")]
    assert rig.attachments.expected == [2], "as many as are to be attached are known before the first"


def test_each_failure_says_which_interface_it_concerns() -> None:
    rig = Rig()
    rig.attachments.failing = {3}
    rig.maps.is_full = True
    outcome = rig.apply(PutHostAddress(ADDRESS), Attach(3, "from_pod"), PutIface(4, CLOSED))
    failures: dict[int | None, RedirectError] = {each.ifindex: each for each in outcome.failures}
    assert set(failures) == {None, 3, 4}
    assert isinstance(failures[4], MapFull) and "not permitted" in str(failures[None])


OTHER = ip_address("10.0.0.2")


@pytest.mark.parametrize("fails", [False, True])
def test_the_sockets_of_all_that_go_are_looked_through_once(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel walks those of the whole machine each time: fifty pods of a namespace are let go in one second."""
    asked: list[frozenset[IP]] = []

    def destroy(addresses: frozenset[IP]) -> int:
        asked.append(addresses)
        if fails:
            raise OSError(errno.EPERM, "not permitted")
        return 0

    monkeypatch.setattr(module.sock_diag, "destroy", destroy)
    monkeypatch.setattr(module.netns, "entered", lambda _: nullcontext())
    rig = Rig()
    rig.sides = sides_of("x")[:1]
    rig.attachments.failing = {5}
    for ifindex, address in ((3, ADDRESS), (4, OTHER)):
        rig.maps.pods[address] = PodEntry(Flag.ENROLLED, ifindex, bytes(6), bytes(6), 1500, 1460)
    outcome = rig.apply(
        Attach(5, "from_pod"),
        DestroySockets(frozenset({ADDRESS}), 3),
        DestroySockets(frozenset({OTHER}), 4),
        DestroySockets(frozenset({ip_address("10.0.0.3")}), 5),
        DeletePod(ADDRESS, 3),
        DeletePod(OTHER, 4),
    )
    assert asked == [{ADDRESS, OTHER}]
    if fails:
        assert {each.ifindex for each in outcome.failures} == {3, 4, 5}
        assert "10.0.0.2: not permitted" in str(outcome.failures[2]).replace("[Errno 1] ", "")
        assert set(rig.maps.pods) == {ADDRESS, OTHER}, "they stay closed"
    else:
        assert not rig.maps.pods and len(outcome.done) == 4
