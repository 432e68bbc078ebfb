"""Counters that cannot be read are said to be so; they end nothing and make up no rate."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from agent.telemetry.metrics import Figures
from agent.watch.kernel_counters import DROPS, KernelCounters
from redirect.repairs import Repairs
from redirect.unseen import Passed

DROP = min(DROPS)


class Kernel:
    """Counts in place of the kernel."""

    def __init__(self) -> None:
        self.counts = {DROP: 7, ("from_pod", "SYN_TO_PROXY"): 3}

    async def run(self, work: Callable[[Any], Any]) -> Any:
        kernel = SimpleNamespace(
            stats=lambda: self.counts,
            passed=lambda: Passed(4, 2),
            opened=lambda: (),
            repairs=Repairs(),
        )
        return work(kernel)


@contextmanager
def without_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_without_descriptors_says_so_and_goes_on() -> None:
    kernel, figures = Kernel(), Figures()
    captures = SimpleNamespace(pods={}, waiting=())
    counters = KernelCounters(kernel, captures, figures)  # type: ignore[arg-type]

    async def read() -> int:
        return await counters.read()

    with asyncio.Runner() as runner:
        assert (runner.run(read()), counters.problem) == (7, "")
        assert counters.passed == Passed(4, 2)
        figures_now = {(name, *labels): count for name, labels, count in figures.items()}
        assert figures_now["ztun_unguarded_packets", "outbound"] == 4
        assert figures_now["ztun_unguarded_packets", "inbound"] == 2
        with without_descriptors():
            # What was counted last: the difference is a rate.
            assert runner.run(read()) == 7
            assert "Too many open files" in counters.problem
        kernel.counts = {DROP: 9}
        assert (runner.run(read()), counters.problem) == (9, "")
