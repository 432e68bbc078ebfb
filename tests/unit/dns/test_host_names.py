"""Which names are looked up, when, and what workers are told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from agent.channel import HostNames
from agent.dns.host_names import AGAIN_S, AT_ONCE, HOLDS_S, LooksUp
from agent.dns.resolver import Found, LookupFailed
from agent.model.address import parse_ip
from agent.state.apply import Changes
from tests.support import mesh

TTL_S = 30.0
DB = mesh.workload("db", hostname="db.example")


class Names:
    """LooksUp, and a resolver whose answers are the test's; time is too."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.takes_s = 0.0
        """How long a lookup that fails takes, of those that begin together."""
        self.answers: dict[str, Found | LookupFailed] = {}
        self.asked: list[str] = []
        self.told: list[HostNames] = []
        self._runner = asyncio.Runner()
        self.looks_up = LooksUp(self._look_up, self.told.append, lambda: self.now_s)  # type: ignore[arg-type]

    async def _look_up(self, host: str) -> Found:
        self.asked.append(host)
        answer = self.answers.get(host, LookupFailed(f"{host} does not exist", is_final=True))
        if isinstance(answer, LookupFailed):
            ended_s = self.now_s + self.takes_s
            await asyncio.sleep(0)
            self.now_s = max(self.now_s, ended_s)
            raise answer
        return answer

    def found(self, host: str, *addresses: str) -> None:
        self.answers[host] = Found(tuple(map(parse_ip, addresses)), TTL_S)

    def failed(self, host: str, *, is_final: bool) -> None:
        self.answers[host] = LookupFailed(f"{host}: a reason", is_final=is_final)

    def know(self, *workloads: Any, gone: tuple[str, ...] = ()) -> None:
        uids = frozenset((*(each.uid for each in workloads), *gone))
        self.looks_up.state_changed(mesh.snapshot(*workloads), Changes(workloads=uids))

    def after(self, seconds: float) -> None:
        """Let all happen that is due then."""
        self.now_s += seconds

        async def body() -> None:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self.looks_up.run())
                for _ in range(20):
                    await asyncio.sleep(0)
                running.cancel()

        self._runner.run(body())

    def close(self) -> None:
        self._runner.close()

    def last(self, host: str) -> tuple[list[str], str]:
        """What workers know of it."""
        heard: list[Any] = []
        self.looks_up.brief(heard.append)
        return next((list(addresses), error) for name, addresses, error in heard[0].names if name == host)


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.close()


def test_only_what_has_no_other_address_is_looked_up(names: Names) -> None:
    names.found("db.example", "192.0.2.7")
    names.know(DB, mesh.workload("web", "10.0.0.1", hostname="web-0.example"))
    names.after(0)
    assert names.asked == ["db.example"]
    assert names.told == [HostNames([("db.example", ["192.0.2.7"], "")])]
    assert str(names.looks_up.as_told().pick("db.example", 4, Random())) == "192.0.2.7", (
        "for who is asked here"
    )


def test_it_is_looked_up_again_when_its_time_is_over_and_told_when_it_is_another(names: Names) -> None:
    names.found("db.example", "192.0.2.7")
    names.know(DB)
    names.after(0)
    names.after(TTL_S - 1)
    assert len(names.asked) == 1
    names.after(1)
    assert len(names.asked) == 2 and len(names.told) == 1, "nothing has changed"
    names.found("db.example", "192.0.2.8")
    names.after(TTL_S)
    assert names.told[1:] == [HostNames([("db.example", ["192.0.2.8"], "")])]


def test_what_was_known_holds_a_while_where_nobody_can_say(names: Names) -> None:
    names.found("db.example", "192.0.2.7")
    names.know(DB)
    names.after(0)
    names.failed("db.example", is_final=False)
    names.after(TTL_S)
    assert names.last("db.example") == (["192.0.2.7"], "")
    names.after(HOLDS_S + AGAIN_S)
    assert names.last("db.example") == ([], "db.example: a reason")
    names.found("db.example", "192.0.2.7")
    names.after(AGAIN_S)
    assert names.last("db.example") == (["192.0.2.7"], "")


def test_what_is_said_to_be_gone_is_gone_at_once(names: Names) -> None:
    names.found("db.example", "192.0.2.7")
    names.know(DB)
    names.after(0)
    names.failed("db.example", is_final=True)
    names.after(TTL_S)
    assert names.last("db.example") == ([], "db.example: a reason")


def test_one_that_nobody_wants_any_more_is_forgotten(names: Names) -> None:
    names.found("db.example", "192.0.2.7")
    names.know(DB)
    names.after(0)
    names.know(gone=(DB.uid,))
    assert names.told[-1] == HostNames((), ["db.example"])
    names.after(2 * TTL_S)
    assert len(names.asked) == 1


def test_many_that_nobody_answers_for_keep_no_other_from_being_looked_up(names: Names) -> None:
    silent = [mesh.workload(f"a{n}", hostname=f"a{n:02}.example") for n in range(4 * AT_ONCE)]
    for workload in silent:
        names.failed(workload.hostname, is_final=False)
    names.takes_s = AGAIN_S
    names.found("db.example", "192.0.2.7")
    names.know(*silent, DB)
    names.after(0)
    assert names.last("db.example") == (["192.0.2.7"], "")


def test_addresses_that_are_not_dialled_are_counted_and_said_once(
    names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    def figures() -> dict[str, float]:
        return {"/".join((family.name, *labels)): value for family, labels, value in names.looks_up.samples()}

    assert not figures()
    names.answers["db.example"] = Found((parse_ip("192.0.2.7"),), TTL_S, 5936)
    names.know(DB, mesh.workload("web", hostname="web.example"))
    assert figures()["ztun_host_names/asked"] == 2
    names.after(0)
    names.after(TTL_S)
    assert figures() == {
        "ztun_host_names/known": 1,
        "ztun_host_names/failed": 1,
        "ztun_host_names/asked": 0,
        "ztun_host_name_addresses_left_out": 5936,
    }
    (line,) = (record.getMessage() for record in caplog.records if "5936" in record.getMessage())
    assert "db.example has 5936 addresses more than are dialled" in line
