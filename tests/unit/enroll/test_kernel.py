"""The way to the kernel side, with a Redirection that records: what is desired, and what failures say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from agent.enroll.kernel import Applied, KernelSide
from agent.enroll.wish import Where
from agent.model.address import IP, parse_ip
from redirect import host_addresses, other_mesh
from redirect.desired import Desired, DesiredPod, NextHop
from redirect.errors import MapFull, PodNotFound, RedirectError, StepFailed, StepsFailed, raise_all
from redirect.existing import NOBODYS
from redirect.findings import Finding, Part
from redirect.other_mesh import OtherMesh
from redirect.packet_size import of_link
from redirect.place import Place

T = TypeVar("T")
MAC = b"\x02" * 6
HOP = NextHop(4, MAC, of_link(1500, 4))
ONE, TWO = (Place(n, f"veth{n}", (parse_ip(f"10.0.0.{n}"),), MAC, (HOP,)) for n in (1, 2))


class FakeRedirection:
    """What was asked of it, and by which threads. Raises `error` where one is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[Desired, Mapping[int, float]]] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self.pins: tuple[Place, ...] = ()
        self.close_error: Exception | None = None
        self.events: list[str] = []
        self.is_closed = False
        self.found: tuple[Finding, ...] = ()
        self.settling = self

    def prove(self, _: Desired) -> tuple[Finding, ...]:
        return self.found

    def turn(self, _: float) -> None:
        self.events.append("settle")

    def apply(
        self, desired: Desired, *, keep_existing: Mapping[int, float], only: Collection[int] | None
    ) -> list[str]:
        self.asked.append((desired, keep_existing))
        self.threads.add(threading.get_ident())
        if self.error:
            raise self.error
        return ["attach from_pod to interface 1", "keep 2 open connections of veth1"]

    def close_off(
        self, interfaces: Mapping[int, str], running: Mapping[int, Collection[IP]], owners: Mapping[int, str]
    ) -> None:
        self.events.append(f"close {interfaces}, asked at {[*map(str, running[1])]}")

    def captured(self) -> tuple[Place, ...]:
        self.threads.add(threading.get_ident())
        return self.pins

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.is_closed = True
        if self.close_error:
            raise self.close_error


def run(redirection: FakeRedirection, *works: Callable[[KernelSide], Awaitable[T]]) -> list[T]:
    async def main(kernel: KernelSide) -> list[T]:
        return [await work(kernel) for work in works]

    kernel = KernelSide(redirection)  # type: ignore[arg-type]
    try:
        return asyncio.run(main(kernel))
    finally:
        kernel.close()


def capture(
    redirection: FakeRedirection, *places: Place, keep_existing: Mapping[int, float] = NOBODYS
) -> Applied:
    return run(redirection, lambda kernel: kernel.capture(places, keep_existing=keep_existing))[0]


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_done_is_told_also_where_something_else_failed(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    redirection = FakeRedirection()
    failures = [StepFailed("attach to_pod", "no room", ifindex) for ifindex in range(count)]
    with pytest.raises(RedirectError) as raised:
        raise_all(failures, ["pin prog_from_pod was gone: made again", "keep 2 open connections of veth1"])
    redirection.error = raised.value
    with caplog.at_level("INFO", "agent.enroll.kernel"):
        applied = capture(redirection, ONE)
    assert applied == Applied(("keep 2 open connections of veth1",), tuple(failures))
    assert "kernel: pin prog_from_pod was gone: made again" in caplog.messages


def test_exactly_the_places_of_the_call_are_desired_and_the_nodes_addresses_read_anew() -> None:
    redirection = FakeRedirection()
    capture(redirection, TWO, ONE, keep_existing={1: 9.0})
    pods = tuple(DesiredPod(each.ifindex, each.ifname, each.addresses, MAC, (HOP,)) for each in (ONE, TWO))
    assert redirection.asked == [(Desired(pods, host_addresses.local()), {1: 9.0})]
    capture(redirection, TWO)
    assert redirection.asked[1] == (Desired(pods[1:], host_addresses.local()), {}), "nothing is remembered"


def test_only_what_people_asked_about_is_noted() -> None:
    assert capture(FakeRedirection(), ONE) == Applied(notes=("keep 2 open connections of veth1",))


@pytest.mark.parametrize(
    ("error", "concerned"),
    [
        (StepFailed("attach", "no such device", 2), [2]),
        (StepsFailed([StepFailed("attach", "busy", 1), MapFull("pods", 4, 2)]), [1, 2]),
        (MapFull("hostips", 4096), [None]),
        (OSError(105, "no buffer space"), [None]),
    ],
)
def test_failures_are_answers_that_name_their_interface(
    error: Exception, concerned: list[int | None]
) -> None:
    redirection = FakeRedirection()
    redirection.error = error
    failures = capture(redirection, ONE, TWO).failures
    assert [failure.ifindex for failure in failures] == concerned
    assert all(isinstance(failure, RedirectError) for failure in failures)
    assert str(error) in "; ".join(map(str, failures))


def test_what_is_no_failure_of_the_kernel_side_is_not_swallowed() -> None:
    redirection = FakeRedirection()
    redirection.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        capture(redirection, ONE)


def test_a_pod_is_closed_before_it_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    redirection = FakeRedirection()
    found = OtherMesh(tables=((1, "istio-ambient-nat"),))
    monkeypatch.setattr(other_mesh, "find", lambda: found)
    monkeypatch.setattr(other_mesh, "clean", lambda what: redirection.events.append(f"clean {what}"))
    where = Where(netns="/proc/self/ns/net")
    assert run(redirection, lambda kernel: kernel.clean(where, ONE)) == [found]
    assert redirection.events == ["close {1: 'veth1'}, asked at ['10.0.0.1']", f"clean {found}"]


def test_captured_interfaces_that_are_gone_are_not_places() -> None:
    redirection = FakeRedirection()
    redirection.pins = (ONE, Place(9, "", (), bytes(6), ()))
    assert run(redirection, lambda kernel: kernel.captured()) == [(ONE,)]


def test_what_was_attached_in_haste_is_settled_once_nothing_is_to_be_mended() -> None:
    redirection = FakeRedirection()
    redirection.found = (Finding(Part.PROGRAM, 1, "from_pod is not attached"),)
    assert run(redirection, lambda kernel: kernel.prove([ONE])) == [redirection.found]
    assert redirection.events == []
    redirection.found = (Finding(Part.LISTENER, None, "a slot has no listener", is_mendable=False),)
    assert run(redirection, lambda kernel: kernel.prove([ONE])) == [redirection.found]
    assert redirection.events == ["settle"]


def test_there_is_one_writer() -> None:
    redirection = FakeRedirection()
    run(redirection, lambda kernel: kernel.captured(), lambda kernel: kernel.captured())
    capture(redirection, ONE)
    assert threading.get_ident() not in redirection.threads
    redirection.threads.clear()

    async def both(kernel: KernelSide) -> None:
        await asyncio.gather(*(kernel.capture([ONE]) for _ in range(8)))

    run(redirection, both)
    assert len(redirection.threads) == 1


def test_what_cannot_be_left_to_the_pins_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    redirection = FakeRedirection()
    KernelSide(redirection).close()  # type: ignore[arg-type]
    assert redirection.is_closed and not caplog.messages
    redirection.close_error = OSError("no bpffs")
    KernelSide(redirection).close()  # type: ignore[arg-type]
    assert caplog.messages == ["captured pods may be open from now on: a link cannot be pinned (no bpffs)"]


def test_a_place_that_cannot_be_captured_says_why(tmp_path: Path) -> None:
    def locate(path: Path) -> Place:
        ((_, found),) = run(FakeRedirection(), lambda kernel: kernel.locate(Where(netns=str(path))))
        return found

    assert "hostNetwork" in locate(Path("/proc/self/ns/net")).refusal
    with pytest.raises(PodNotFound, match="no such file"):
        locate(tmp_path / "none")


@pytest.mark.parametrize("fields", [(None, None, None), ("/run/netns/a", 7, None)])
def test_a_wish_says_in_one_way_where_its_pod_is(fields: tuple[str | None, int | None, str | None]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Where(*fields)
