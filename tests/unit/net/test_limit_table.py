"""The table of what clients have: several workers over one file, time under the test's control, never above a limit."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.net.limit_table import (
    COLUMNS,
    NO_ROOM,
    SETS,
    STUCK,
    TOO_FAST,
    TOO_MANY,
    WAYS,
    LimitTable,
    least_bytes,
)

CLIENT, OTHER = (hashlib.blake2b(name, digest_size=16).digest() for name in (b"client", b"other"))


@contextlib.contextmanager
def workers(path: Path, count: int = 3) -> Iterator[list[LimitTable]]:
    tables = [LimitTable.opened(path) for _ in range(count)]
    try:
        yield tables
    finally:
        for table in tables:
            table.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits"


def test_the_limit_is_of_all_workers_together_and_of_one_client(path: Path) -> None:
    with workers(path) as tables:
        rows = [tables[turn % 3].enter(CLIENT, 10, None, 0.0) for turn in range(10)]
        assert min(rows) >= 0
        assert [table.enter(CLIENT, 10, None, 0.0) for table in tables] == [TOO_MANY] * 3
        assert tables[0].enter(OTHER, 10, None, 0.0) >= 0, "another client has its own"
        tables[1].leave(rows[1])
        assert tables[2].enter(CLIENT, 10, None, 0.0) == rows[0]
        assert tables[0].enter(CLIENT, 10, None, 0.0) == TOO_MANY


def test_one_admits_at_a_time_and_nobody_waits_for_one_that_stands_still(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workers(path, 2) as (table, other):
        row = table.enter(CLIENT, 3, None, 0.0)
        turns, tries = list[str](), list[int]()
        really = fcntl.fcntl

        def yielded() -> None:
            turns.append("a turn for the other")
            if len(turns) == 2:
                other._unlock()

        def tried(fd: int, asked: int, what: bytes) -> bytes | int:
            tries.append(fd)
            return really(fd, asked, what)

        def of_tries(call: Callable[[], object]) -> tuple[object, int]:
            tries.clear()
            return call(), len(tries)

        slept_s = list[float]()
        monkeypatch.setattr(time, "sleep", slept_s.append)
        monkeypatch.setattr(os, "sched_yield", yielded)
        assert other._lock()
        assert table.enter(CLIENT, 3, None, 0.0) == row and len(turns) == 2 and not slept_s
        assert other._lock()
        monkeypatch.setattr(fcntl, "fcntl", tried)
        answer, count = of_tries(lambda: table.enter(CLIENT, None, None, 0.0))
        assert answer == STUCK and 10 < count < 1000 and len(turns) < 10
        assert 0 < sum(slept_s) < 0.02
        slept_s.clear()
        assert of_tries(lambda: table.resume(OTHER, 0.0)) == (STUCK, 1)
        assert of_tries(lambda: table.draw(row, 100, 10_000, 0.0)) == (0, 1)
        assert of_tries(lambda: table.give_back(row, 1, 10_000)) == (None, 1)
        assert of_tries(lambda: table.park(row)) == (None, 1)
        assert not slept_s, "whoever comes next does not wait for the same"
        other._unlock()
        assert table.draw(row, 100, 10_000, 0.0) == 100
        assert table.enter(CLIENT, 3, None, 0.0) == row
        assert table.enter(CLIENT, 3, None, 0.0) == TOO_MANY


@pytest.mark.parametrize("by", ["itself", "the next call"])
def test_what_could_not_be_charged_is_charged_later(path: Path, by: str) -> None:
    with workers(path, 2) as (table, other):
        row = table.enter(CLIENT, None, None, 5.0)
        assert other._lock()
        for _ in range(3):
            table.charge(row, 10_000, 10_000, 5.0)
        other._unlock()
        if by == "itself":
            table.settle()
            assert other.draw(row, 100, 10_000, 7.9) == 0
        assert table.draw(row, 100, 10_000, 7.9) == 0
        assert other.draw(row, 100, 10_000, 8.3) == 100
        table.settle()
        assert other.draw(row, 100, 10_000, 8.35) == 100, "once"


def test_what_a_dead_worker_had_counts_for_nobody(path: Path) -> None:
    with workers(path, 1) as (alive,):
        dead = LimitTable.opened(path)
        row = dead.enter(CLIENT, 2, None, 0.0)
        dead.park(dead.enter(CLIENT, 2, None, 0.0))
        assert (row, alive.enter(CLIENT, 2, None, 0.0)) == (row, TOO_MANY)
        os.close(os.dup(dead._fd))  # no other lock than this one goes with a duplicate
        assert alive.enter(CLIENT, 2, None, 0.0) == TOO_MANY
        dead.close()
        assert [alive.enter(CLIENT, 2, None, 0.0) for _ in range(3)] == [row, row, TOO_MANY]


def test_the_column_of_a_dead_worker_is_taken_without_what_it_had(path: Path) -> None:
    with workers(path, 1) as (alive,):
        dead = LimitTable.opened(path)
        assert dead.enter(CLIENT, None, None, 0.0) >= 0
        dead.close()
        with workers(path, 1) as (heir,):
            assert (heir.count(CLIENT), alive.count(CLIENT)) == (0, 0)


def test_a_connection_that_moves_is_counted_at_every_moment_and_once(path: Path) -> None:
    with workers(path, 2) as (giver, taker):
        row = giver.enter(CLIENT, 1, None, 0.0)
        giver.park(row)
        assert taker.enter(CLIENT, 1, None, 0.0) == TOO_MANY, "nobody has it, and it is there"
        assert giver.resume(OTHER, 0.0) >= 0 and giver.count(CLIENT) == 1
        assert taker.resume(CLIENT, 0.0, is_parked=True) == row
        assert taker.count(CLIENT) == 1
        giver.park(giver.resume(CLIENT, 0.0))
        assert giver.resume(CLIENT, 0.0, is_parked=True) == row, "taken back"
        assert taker.count(CLIENT) == 2


def test_more_workers_than_columns_are_refused_by_name(path: Path) -> None:
    with workers(path, COLUMNS), pytest.raises(OSError, match="more than 128 workers"):
        LimitTable.opened(path)


def test_clients_that_are_gone_make_room_and_others_never_do(path: Path) -> None:
    def of_one_set(number: int) -> bytes:
        return (7).to_bytes(8, "little") + (7 + SETS * number).to_bytes(8, "little")

    with workers(path, 2) as (table, other):
        rows = [other.enter(of_one_set(n), 1, 1, 5.0) for n in range(WAYS)]
        assert sorted(set(rows)) == sorted(rows)
        assert table.enter(of_one_set(WAYS), 1, 1, 5.0) == NO_ROOM
        other.leave(rows[3])
        assert table.enter(of_one_set(WAYS), 1, 1, 5.5) == NO_ROOM, "its last second is not over"
        assert table.enter(of_one_set(WAYS), 1, 1, 6.1) == rows[3]
        assert table.enter(of_one_set(WAYS + 1), 1, 1, 6.1) == NO_ROOM
        other.close()
        assert table.enter(of_one_set(WAYS + 1), 1, 1, 6.1) >= 0
        other.__init__(os.memfd_create("again"))  # type: ignore[misc] # for the end of this test


def test_nobody_is_shut_out_before_the_table_is_nearly_full() -> None:
    table = LimitTable.opened(None)
    try:
        keys = [hashlib.blake2b(b"%d" % number, digest_size=16).digest() for number in range(3500)]
        rows = [table.enter(key, 1, None, 0.0) for key in keys]
        assert min(rows) >= 0 and len(set(rows)) == len(rows)
        assert [table.enter(key, 1, None, 0.0) for key in keys[::50]] == [TOO_MANY] * 70, (
            "each is found again"
        )
    finally:
        table.close()


def test_a_removed_file_is_noticed(path: Path) -> None:
    with workers(path, 1) as (table,):
        assert table.is_current
        path.unlink()
        assert not table.is_current
        path.write_bytes(b"")
        assert not table.is_current


WAITS = st.lists(st.floats(0, 0.4), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(waits=WAITS, limit=st.integers(1, 12))
def test_in_no_second_are_more_let_in_than_the_limit_says(waits: list[float], limit: int) -> None:
    table, now_s = LimitTable.opened(None), 1000.0
    let_in: list[float] = []
    try:
        for wait_s in waits:
            now_s += wait_s
            row = table.enter(CLIENT, None, limit, now_s)
            if row >= 0:
                let_in.append(now_s)
            else:
                assert row == TOO_FAST
                last = sum(now_s - each < 34 / 32 for each in let_in)
                assert last >= limit, "refused for nothing"
    finally:
        table.close()
    for begin_s in let_in:
        assert sum(begin_s <= each < begin_s + 1 for each in let_in) <= limit


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([1000, 65_537, 1_000_000, 10**9]),
    turns=st.lists(
        st.tuples(st.floats(0, 0.3), st.floats(0, 2), st.floats(0, 1), st.integers(0, 1)),
        min_size=1,
        max_size=80,
    ),
)
def test_in_no_second_pass_more_bytes_than_the_limit_says(
    rate: int, turns: list[tuple[float, float, float, int]]
) -> None:
    """Whatever the workers want, and whatever of it they give back."""
    fd = os.memfd_create("table")
    tables = [LimitTable(os.open(f"/proc/self/fd/{fd}", os.O_RDWR)) for _ in range(2)]
    os.close(fd)
    now_s, passed = 50.0, list[tuple[float, int]]()
    try:
        row = tables[0].enter(CLIENT, None, None, now_s)
        for wait_s, of_rate, used, who in turns:
            now_s += wait_s
            granted = tables[who].draw(row, 1 + int(of_rate * rate), rate, now_s)
            size = int(granted * used)
            if granted > size:
                tables[who].give_back(row, granted - size, rate)
            passed.append((now_s, size))
    finally:
        for table in tables:
            table.close()
    for begin_s, _ in passed:
        assert sum(size for at_s, size in passed if begin_s <= at_s < begin_s + 1) <= rate


@pytest.mark.parametrize("rate", [1000, 123_457, 10_000_000])
def test_who_always_wants_more_has_nearly_all_of_the_limit(rate: int) -> None:
    """In five seconds of a clock that stands still while it is asked."""
    table, now_s, passed = LimitTable.opened(None), 0.0, list[tuple[float, int]]()
    try:
        row = table.enter(CLIENT, None, None, now_s)
        while now_s < 5.0:
            passed.append((now_s, table.draw(row, 1 << 18, rate, now_s)))
            now_s += max(0.0005, table.ready_in_s(row, rate, now_s))
    finally:
        table.close()
    assert 0.9 * 5 * rate <= sum(size for _, size in passed) <= 5 * rate
    for begin_s in (0.0, 0.5, 2.25):
        assert sum(size for at_s, size in passed if begin_s <= at_s < begin_s + 1) <= rate
    assert least_bytes(rate) <= rate // 16


def test_what_passed_unasked_is_waited_for() -> None:
    table = LimitTable.opened(None)
    try:
        row = table.enter(CLIENT, None, None, 5.0)
        table.charge(row, 30_000, 10_000, 5.0)
        assert table.draw(row, 100, 10_000, 7.9) == 0
        assert table.draw(row, 100, 10_000, 8.3) == 100
    finally:
        table.close()
