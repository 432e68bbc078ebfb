"""What the kernel side lacks is mended and looked at again; what stays broken is told, of the pod it concerns."""

from __future__ import annotations

import asyncio

import pytest

from agent.enroll.abridged import LONGEST, MOST, abridged
from agent.proof.findings import Finding as Told
from agent.proof.findings import Link
from agent.telemetry.metrics import Figures
from agent.watch.kernel_check import LINK_OF_PART, KernelCheck
from redirect.findings import Finding, Part

GONE = Finding(Part.PROGRAM, 5, "from_pod is not attached to veth5")
DEAF = Finding(Part.LISTENER, None, "slot hbone has no listener", "wait", is_mendable=False)
AHEAD = Finding(Part.PROGRAM, 5, "somebody is ahead", "move it", is_mendable=False)
AWAY = Finding(Part.INTERFACE, 5, "veth5 is gone", "is it there?", is_mendable=False)


class Kernel:
    """Rounds of findings, one after the other; the last stays."""

    def __init__(self, *rounds: tuple[Finding, ...]) -> None:
        self._rounds = list(rounds)
        self.mended = 0

    async def prove(self) -> tuple[Finding, ...]:
        return self._rounds.pop(0) if len(self._rounds) > 1 else self._rounds[0]

    async def mend(self) -> None:
        self.mended += 1


def check(kernel: Kernel) -> list[Told]:
    return asyncio.run(KernelCheck(kernel.prove, kernel.mend, lambda: {5: "demo/a"}, Figures())())  # type: ignore[arg-type]


def test_what_can_be_mended_is_and_leaves_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel((GONE, DEAF), (DEAF,))
    assert check(kernel) == [Told(Link.LISTENER, "", "slot hbone has no listener", "wait")]
    assert kernel.mended == 1
    assert caplog.messages == [
        "the kernel side is not whole: program: from_pod is not attached to veth5: it is made again"
    ]


def test_a_map_that_somebody_filled_is_no_line_for_each_of_its_entries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    filled = tuple(Finding(Part.ENTRY, None, f"release fdee::{number:x}") for number in range(16_384))
    check(Kernel((*filled, GONE), ()))
    assert len(caplog.messages) == MOST + 2
    assert "program: from_pod is not attached to veth5: it is made again" in caplog.messages[-2]
    assert caplog.messages[-1].startswith(
        f"the kernel side is not whole: entry: ...: {16_384 - MOST} more of these"
    )


def test_what_cannot_be_mended_is_left_alone_and_told_with_its_pod() -> None:
    kernel = Kernel((AHEAD,))
    assert check(kernel) == [Told(Link.PROGRAM, "demo/a", "somebody is ahead", "move it")]
    assert kernel.mended == 0


def test_what_stays_after_mending_is_told() -> None:
    kernel = Kernel((GONE,))
    (told,) = check(kernel)
    assert (told.link, told.pod, kernel.mended) == (Link.PROGRAM, "demo/a", 1)


def test_an_interface_that_is_gone_is_known_elsewhere() -> None:
    assert check(Kernel((AWAY,))) == []


def test_no_line_is_as_long_as_a_map_has_entries() -> None:
    (line,) = abridged(["destroy the proxy's sockets of " + ", ".join(f"fdee::{n:x}" for n in range(16_384))])
    assert line.startswith("destroy the proxy's sockets of fdee::0, fdee::1, ") and len(line) < LONGEST + 50


def test_every_part_is_a_link() -> None:
    assert set(LINK_OF_PART) == set(Part)


def test_what_differs_is_counted_as_of_the_last_look() -> None:
    figures, kernel = Figures(), Kernel((GONE, DEAF), (DEAF,), (GONE, DEAF), (GONE, DEAF))
    check = KernelCheck(kernel.prove, kernel.mend, dict, figures)  # type: ignore[arg-type]

    def counted() -> dict[tuple[str, ...], float]:
        return {(name, *labels): count for name, labels, count in figures.items() if count}

    assert not counted() and len(figures.items()) == len(Part), "there before the trouble"
    asyncio.run(check())
    assert counted() == {("ztun_drift", "listener"): 1}
    # What stays although it was to be made again.
    asyncio.run(check())
    assert counted() == {("ztun_drift", "listener"): 1, ("ztun_drift", "program"): 1}
