"""The programs are told where the kubelet is, when it is somewhere else, and whom nobody finds passes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from agent.enroll.kernel import KernelSide
from agent.enroll.kubelet_group import KubeletGroup, NoKubeletGroup
from agent.watch.host_traffic import HostTraffic
from redirect.errors import NoPins
from redirect.host_senders import NOBODY, initial


class Group:
    """Where the kubelet is said to be; 0: nowhere."""

    def __init__(self) -> None:
        self.number = 0
        self.path = ""

    def find(self) -> int:
        self.path = f"/group{self.number}" if self.number else ""
        if not self.number:
            raise NoKubeletGroup("there is none")
        return self.number


class Kernel:
    def __init__(self) -> None:
        self.told: list[int] = []
        self.fails = False

    async def run(self, work: Callable[[Any], None]) -> None:
        if self.fails:
            raise NoPins("gone")
        work(self)

    def let_host(self, number: int) -> None:
        self.told.append(number)


def made(mode: str = "kubelet") -> tuple[HostTraffic, Kernel, Group]:
    kernel, group = Kernel(), Group()
    return HostTraffic(mode, cast(KernelSide, kernel), cast(KubeletGroup, group)), kernel, group


def test_the_programs_hear_of_each_change_once() -> None:
    traffic, kernel, group = made()
    group.number = 5
    for number in (5, 5, 6, 6):
        group.number = number
        asyncio.run(traffic.look())
    assert kernel.told == [5, 6] and traffic.passes == "/group6" and not traffic.problem


def test_while_nobody_finds_it_nobody_passes_and_it_is_said() -> None:
    traffic, kernel, group = made()
    asyncio.run(traffic.look())
    assert kernel.told == [NOBODY] and traffic.passes == "nobody's"
    assert traffic.problem == "probes of the kubelet meet policy: there is none"
    group.number = 5
    asyncio.run(traffic.look())
    assert kernel.told == [NOBODY, 5] and not traffic.problem


def test_what_the_programs_did_not_hear_is_told_again() -> None:
    traffic, kernel, group = made()
    group.number, kernel.fails = 5, True
    asyncio.run(traffic.look())
    assert "cannot be told where the kubelet is: gone" in traffic.problem
    kernel.fails = False
    asyncio.run(traffic.look())
    assert kernel.told == [5] and not traffic.problem


def test_with_the_other_modes_there_is_nothing_to_follow() -> None:
    for mode, who in (("all", "everybody's"), ("none", "nobody's")):
        traffic, kernel, _ = made(mode)
        asyncio.run(traffic.watch())
        assert (traffic.passes, traffic.problem, kernel.told) == (who, "", [])


def test_a_new_agent_keeps_the_group_until_it_has_looked() -> None:
    assert initial("all", 7) == 0 and initial("none", 7) == NOBODY
    assert initial("kubelet", 7) == 7 and initial("kubelet", 0) == NOBODY
