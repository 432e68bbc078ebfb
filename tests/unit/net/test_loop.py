"""The nested epoll: edges, postponed work, timers, and callbacks that raise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from agent.net.loop import ENDED, INBOUND_EDGES, READABLE, Loop
from agent.net.outer_loop import OuterLoop


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.errors: list[tuple[BaseException, int | None]] = []
        self.loop = Loop(self.clock, lambda error, fd: self.errors.append((error, fd)))
        self.said: list[object] = []


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.loop.close()


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


def test_a_watch_that_fails_leaves_the_number_free_for_the_next_socket(rig: Rig) -> None:
    with pair() as (one, two):
        number = os.open("/dev/null", os.O_RDONLY)
        os.close(number)
        with pytest.raises(OSError):
            rig.loop.watch(number, rig.said.append)
        os.dup2(one.fileno(), number)
        with socket.socket(fileno=number):
            rig.loop.watch(number, rig.said.append)
            two.send(b"x")
            rig.loop.turn()
            assert rig.said and rig.said[0] & READABLE
            rig.loop.forget(number)


def test_an_edge_is_reported_once_and_the_end_is_named(rig: Rig) -> None:
    with pair() as (one, two):
        rig.loop.watch(one.fileno(), rig.said.append)
        rig.loop.turn()
        rig.said.clear()  # the first edge: writable
        two.send(b"x")
        rig.loop.turn()
        rig.loop.turn()
        assert len(rig.said) == 1 and rig.said[0] & READABLE and not rig.said[0] & ENDED
        two.shutdown(socket.SHUT_WR)
        rig.loop.turn()
        assert rig.said[1] & ENDED


@pytest.mark.parametrize(("takes_s", "rounds"), [(0.0, 4), (0.02, 2)])
def test_a_turn_has_so_many_rounds_and_fewer_where_they_take_long(
    rig: Rig, takes_s: float, rounds: int
) -> None:
    """The outer loop, which tells control that this worker lives, waits for no more than that."""

    def work() -> None:
        rig.said.append("round")
        rig.clock.now_s += takes_s
        rig.loop.soon(work)

    rig.loop.soon(work)
    rig.loop.turn()
    assert len(rig.said) == rounds


def test_a_forgotten_descriptor_is_silent(rig: Rig) -> None:
    with pair() as (one, two):
        rig.loop.watch(one.fileno(), rig.said.append)
        rig.loop.forget(one.fileno())
        rig.loop.forget(one.fileno())
        two.send(b"x")
        rig.loop.turn()
        assert not rig.said


def test_one_callback_may_forget_another_that_is_ready_too(rig: Rig) -> None:
    with pair() as (one, two):
        pairs = {one.fileno(): two.fileno(), two.fileno(): one.fileno()}
        for fd in pairs:
            rig.loop.watch(fd, lambda mask, fd=fd: (rig.said.append(fd), rig.loop.forget(pairs[fd])))
        rig.loop.turn()
        assert len(rig.said) == 1


def test_what_is_left_of_a_closed_socket_is_not_told_to_the_next_one_of_its_number(rig: Rig) -> None:
    with pair() as (one, two), pair() as (idle, _):
        numbers = {one.fileno(), two.fileno()}

        def replace(mask: int, number: int) -> None:
            (other,) = numbers - {number}
            rig.loop.forget(other)
            os.dup2(idle.fileno(), other)
            rig.loop.watch(other, rig.said.append, mask=INBOUND_EDGES)

        for number in numbers:
            rig.loop.watch(number, partial(replace, number=number))
        rig.loop.turn()
        rig.loop.turn()
        assert not rig.said


def test_who_is_passed_a_descriptor_hears_what_was_there_already(rig: Rig) -> None:
    with pair() as (one, two):
        fd = one.fileno()

        def give(mask: int) -> None:
            rig.loop.pass_on(fd, mask, lambda: rig.loop.watch(fd, rig.said.append))

        two.send(b"x")
        rig.loop.watch(fd, give)
        rig.loop.turn()
        (mask,) = rig.said
        assert mask & READABLE
        rig.loop.turn()
        assert len(rig.said) == 1
        two.send(b"y")
        rig.loop.turn()
        assert len(rig.said) == 2


def test_who_is_passed_a_descriptor_for_other_edges_is_told_of_those_alone(rig: Rig) -> None:
    with pair() as (one, two):
        fd = one.fileno()

        def give(mask: int) -> None:
            rig.loop.pass_on(fd, mask, lambda: rig.loop.watch(fd, rig.said.append, mask=INBOUND_EDGES))

        rig.loop.watch(fd, give)
        rig.loop.turn()
        rig.loop.turn()
        assert not rig.said
        two.send(b"x")
        rig.loop.turn()
        assert len(rig.said) == 1


def test_a_callback_that_raises_loses_its_watch_and_nobody_else_does(rig: Rig) -> None:
    with pair() as (one, two):
        crashed: list[BaseException] = []

        def fail(mask: int) -> None:
            raise ValueError("no")

        rig.loop.watch(one.fileno(), fail, crashed.append)
        rig.loop.watch(two.fileno(), rig.said.append)
        rig.loop.turn()
        assert [fd for _, fd in rig.errors] == [one.fileno()] and isinstance(crashed[0], ValueError)
        two.send(b"x")
        one.send(b"y")
        rig.loop.turn()
        assert len(rig.errors) == 1 and len(rig.said) == 2


def test_actions_that_raise_are_reported(rig: Rig) -> None:
    rig.loop.soon(lambda: 1 // 0)
    rig.loop.soon(lambda: rig.said.append("next"))
    rig.loop.flush_at_end(lambda: 1 // 0)
    rig.loop.later(0, lambda: 1 // 0)
    rig.loop.turn()
    assert rig.said == ["next"] and [type(e) for e, _ in rig.errors] == [ZeroDivisionError] * 3


def test_order_within_a_turn(rig: Rig) -> None:
    with pair() as (one, _):
        rig.loop.watch(one.fileno(), lambda mask: rig.said.append("ready"))
        rig.loop.flush_at_end(lambda: rig.said.append("flush"))
        rig.loop.soon(lambda: rig.said.append("soon"))
        rig.loop.later(0, lambda: rig.said.append("timer"))
        rig.loop.turn()
        assert rig.said == ["ready", "soon", "timer", "flush"]


def test_an_action_that_asks_again_does_not_keep_the_turn(rig: Rig) -> None:
    def again() -> None:
        rig.said.append(1)
        rig.loop.soon(again)

    rig.loop.soon(again)
    rig.loop.turn()
    assert len(rig.said) <= 4


def test_timers_run_in_order_once_unless_cancelled(rig: Rig) -> None:
    rig.loop.later(2, lambda: rig.said.append("two"))
    rig.loop.later(1, lambda: rig.said.append("one"))
    rig.loop.later(1.5, lambda: rig.said.append("never")).cancel()
    rig.loop.turn()
    assert not rig.said
    rig.clock.now_s += 2
    rig.loop.turn()
    rig.loop.turn()
    assert rig.said == ["one", "two"]


def test_asyncio_waits_through_it_and_all_of_both_works() -> None:
    errors: list[BaseException] = []
    loop = Loop(time.monotonic, lambda error, fd: errors.append(error))

    async def main() -> None:
        outer = asyncio.get_running_loop()
        said: list[str] = []
        done = asyncio.Event()
        with pair() as (one, two), pair() as (three, four):
            loop.watch(one.fileno(), lambda mask: said.append("ready"))
            outer.add_reader(three, lambda: said.append(three.recv(1).decode()))
            await asyncio.sleep(0)
            loop.soon(lambda: said.append("soon"))
            loop.flush_at_end(lambda: said.append("flush"))
            loop.later(0.02, done.set)
            loop.later(0.01, lambda: loop.later(0.0, lambda: said.append("timer")))
            outer.call_soon(two.send, b"x")
            outer.call_soon(four.send, b"y")
            await asyncio.wait_for(done.wait(), 5)
            assert {"ready", "soon", "flush", "timer", "y"} <= set(said) and not errors
            outer.remove_reader(three)
        loop.detach()
        loop.close()
        await asyncio.sleep(0.001)  # asyncio goes on by itself

    with asyncio.Runner(loop_factory=partial(OuterLoop, loop)) as runner:
        runner.run(main())


def test_asyncio_gets_its_turn_while_the_data_path_is_never_idle() -> None:
    loop = Loop(time.monotonic, lambda error, fd: None)
    turns = 0

    def again() -> None:
        nonlocal turns
        turns += 1
        loop.soon(again)

    async def main() -> None:
        again()
        await asyncio.sleep(0.001)
        asked = asyncio.Event()
        loop.soon(asked.set)  # from inside the data path: nothing wakes asyncio for it
        await asyncio.wait_for(asked.wait(), 5)
        assert turns > 1
        loop.detach()
        loop.close()

    with asyncio.Runner(loop_factory=partial(OuterLoop, loop)) as runner:
        runner.run(main())


@pytest.mark.parametrize("by", ["call_soon", "call_at"])
def test_what_the_data_path_asks_of_asyncio_waits_for_nothing_else(by: str) -> None:
    loop = Loop(time.monotonic, lambda error, fd: None)

    async def main() -> None:
        outer = asyncio.get_running_loop()
        patience = asyncio.Event()
        outer.call_later(5, patience.set)
        asked = asyncio.Event()
        ask = {"call_soon": asked.set, "call_at": lambda: outer.call_later(0, asked.set)}[by]
        loop.later(0.01, ask)
        await asked.wait()
        await asyncio.sleep(0)
        assert not patience.is_set(), "it was done when something else woke asyncio"
        loop.detach()
        loop.close()

    with asyncio.Runner(loop_factory=partial(OuterLoop, loop)) as runner:
        runner.run(main())
