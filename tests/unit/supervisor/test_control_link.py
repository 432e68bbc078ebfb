"""The worker's end of the channel, over unix sockets: orders, control processes that come and go, and bad orders."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from itertools import count, pairwise

import pytest

from agent.channel import Applied, ChannelError, Drain, GoOn, Hello, Listeners, Message, Resources, Stats
from agent.channel_socket import Channel
from agent.model.steps import SLICE_S
from agent.supervisor.control_link import ControlLink
from agent.supervisor.patience import catch_up
from tests.support.crews import until
from tests.support.descriptors import open_descriptors

Scene = Callable[[], Coroutine[None, None, None]]
STEPS, IN_A_SLICE = 100, 10
LONG, BAD = "long", "bad"


def ticking() -> Callable[[], float]:
    """A clock by which a slice is IN_A_SLICE steps."""
    ticks = count()
    return lambda: next(ticks) * SLICE_S / IN_A_SLICE


class Orders:
    """Notes what it is told; `Drain` is an order that it cannot carry out, resources take STEPS."""

    def __init__(self) -> None:
        self.heard: list[tuple[Message, int]] = []
        self.steps = 0
        self.heard_when_alone: list[int] = []

    def hello(self, to: Channel) -> None:
        to.send(Hello(3, os.getpid(), (), "v"))

    def left_alone(self) -> None:
        self.heard_when_alone.append(len(self.heard))

    def carry_out(
        self, message: Message, fds: Sequence[int], reply: Callable[[Message], None]
    ) -> Iterator[None] | None:
        self.heard.append((message, len(fds)))
        for fd in fds:
            os.close(fd)
        match message:
            case Resources():
                return self._apply(message, reply)
            case Drain():
                raise ValueError("no such thing")
        return None

    def _apply(self, message: Resources, reply: Callable[[Message], None]) -> Iterator[None]:
        for _ in range(STEPS if message.type_url == LONG else 0):
            self.steps += 1
            yield
        if message.type_url == BAD:
            yield
            raise ValueError("not to be applied")
        reply(Applied(message.revision))


class Control:
    """The other end, by hand."""

    def __init__(self, link: ControlLink, send_buffer_bytes: int | None = None) -> None:
        ours, theirs = socket.socketpair()
        if send_buffer_bytes is not None:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        self.channel = Channel(ours)
        self.messages: list[Message] = []
        self._link, self._theirs = link, theirs

    def connect(self) -> Control:
        self._link.connected(self._theirs)
        return self

    def close(self) -> None:
        """Both ends: what a process would close by ending."""
        self.channel.close()
        self._theirs.close()

    def hears(self, kind: type[Message]) -> bool:
        self.messages += [message for message, _ in self.channel.receive()]
        return any(isinstance(message, kind) for message in self.messages)

    def is_cut_off(self) -> bool:
        try:
            self.messages += [message for message, _ in self.channel.receive()]
        except ChannelError:
            return True
        return False


def play(scene: Scene) -> None:
    asyncio.run(scene())


def test_a_control_process_is_greeted_and_its_orders_are_answered() -> None:
    async def scene() -> None:
        orders = Orders()
        control = Control(ControlLink(orders)).connect()
        control.channel.send(Resources(7, "policy", ()))
        await until(lambda: control.hears(Applied), "the answer")
        assert control.messages == [Hello(3, os.getpid(), [], "v", formats=[]), Applied(7)]
        control.close()

    play(scene)


def test_the_last_to_connect_is_the_control_process_and_orders_of_the_one_before_are_not_lost() -> None:
    """Above all listeners: unread they would be closed, with their queues."""

    async def scene() -> None:
        orders = Orders()
        link = ControlLink(orders)
        former = Control(link).connect()
        with socket.socket() as sock:
            former.channel.send(Listeners(0, ("a",)), [sock.fileno()])
        control = Control(link).connect()
        assert orders.heard == [(Listeners(0, ["a"]), 1)]
        link.send(Applied(1))
        await until(lambda: control.hears(Applied), "it goes to the new one")
        await until(former.is_cut_off, "and only to it")
        former.close()
        control.close()

    play(scene)


def test_the_last_orders_of_a_control_process_are_carried_out_also_when_telling_it_fails_first() -> None:
    async def scene() -> None:
        orders = Orders()
        link = ControlLink(orders)
        control = Control(link).connect()
        control.channel.send(Resources(7, "policy", ()))
        control.channel.close()
        link.send(Applied(1))
        await until(lambda: not link.is_connected, "its end")
        assert [type(message) for message, _ in orders.heard] == [Resources]
        await until(lambda: orders.heard_when_alone[-1:] == [1], "word that nothing more comes")
        control.close()

    play(scene)


def test_without_a_control_process_the_worker_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        link = ControlLink(Orders())
        link.send(Applied(1))
        control = Control(link).connect()
        control.channel.close()
        await until(lambda: not link.is_connected, "it is noticed")
        link.send(Applied(1))
        again = Control(link).connect()
        await until(lambda: again.hears(Hello), "the next one is greeted")
        again.close()

    play(scene)
    assert "going on with the last state" in caplog.text


def test_only_an_end_that_nobody_has_told_of_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A planned restart is none; what the one before has told says nothing of the next."""
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        orders = Orders()
        link = ControlLink(orders)
        for told in (GoOn(1, 60.0, 10.0), Applied(1)):
            control = Control(link).connect()
            control.channel.send(told)
            await until(lambda told=told: (told, 0) in orders.heard, "it is told")
            control.channel.close()
            await until(lambda: not link.is_connected, "it is noticed")
            control.close()

    play(scene)
    lines = [record for record in caplog.records if "going on with the last state" in record.message]
    assert [record.levelname for record in lines] == ["INFO", "WARNING"]


def test_an_order_that_cannot_be_carried_out_ends_the_channel(caplog: pytest.LogCaptureFixture) -> None:
    """Control then ends the worker: what came behind that order would be judged without it."""

    async def scene() -> None:
        orders = Orders()
        control = Control(ControlLink(orders)).connect()
        control.channel.send(Drain(1.0))
        control.channel.send(Resources(8, "policy", ()))
        await until(control.is_cut_off, "the end")
        assert [type(message) for message, _ in orders.heard] == [Drain]
        assert not any(isinstance(message, Applied) for message in control.messages)
        control.close()

    play(scene)
    assert "an order could not be carried out" in caplog.text


def test_figures_do_not_pile_up_for_a_control_process_that_stands_still() -> None:
    async def scene() -> None:
        link = ControlLink(Orders())
        control = Control(link, send_buffer_bytes=4096).connect()
        made: list[int] = []

        def figures(number: int) -> Stats:
            made.append(number)
            return Stats({"filler": "x" * 1000}, number)

        for number in range(1000):
            link.report(partial(figures, number))
        link.send(Applied(9))
        await until(lambda: control.hears(Applied), "what is no figure arrives all the same")

        def told() -> list[int]:
            control.hears(Stats)
            return [message.connections for message in control.messages if isinstance(message, Stats)]

        assert told() == list(range(len(told()))) and 0 < len(told()) < 100
        assert made == told(), "what is asked for is sent: it may be what has changed since the last"
        link.report(lambda: Stats({}, 5000))
        await until(lambda: told()[-1] == 5000, "the next figures")
        control.close()

    play(scene)


def test_a_link_that_was_stopped_hears_nothing_and_keeps_its_socket() -> None:
    async def scene() -> None:
        orders = Orders()
        link = ControlLink(orders)
        control = Control(link).connect()
        await until(lambda: control.hears(Hello), "greeting")
        link.stop()
        control.channel.send(Resources(1, "policy", ()))
        await catch_up()
        assert not orders.heard and not control.is_cut_off()
        control.close()

    play(scene)


# -- long orders


def test_a_long_order_goes_in_slices_and_others_have_their_turn_between_them() -> None:
    async def scene() -> None:
        orders = Orders()
        control = Control(ControlLink(orders, ticking())).connect()
        seen: list[int] = []

        def look() -> None:
            seen.append(orders.steps)
            if orders.steps < STEPS:
                asyncio.get_running_loop().call_soon(look)

        control.channel.send(Resources(7, LONG, ()))
        control.channel.send(Resources(8, "policy", ()))
        asyncio.get_running_loop().call_soon(look)
        await until(lambda: control.hears(Applied), "the end of the first")
        at_once = [after - before for before, after in pairwise(seen)]
        assert max(at_once) <= IN_A_SLICE + 1 and orders.steps == STEPS
        await until(lambda: control.hears(Stats) or len(control.messages) == 3, "the end of the second")
        assert control.messages[1:] == [Applied(7), Applied(8)]
        control.close()

    play(scene)


def test_while_one_is_under_way_the_next_is_not_begun() -> None:
    async def scene() -> None:
        orders = Orders()
        control = Control(ControlLink(orders, ticking())).connect()
        control.channel.send(Resources(7, LONG, ()))
        control.channel.send(Stats({}, 1))
        await until(lambda: orders.steps, "the first slice")
        assert len(orders.heard) == 1 and orders.steps < STEPS
        await until(lambda: len(orders.heard) == 2, "then it is")
        assert orders.steps == STEPS
        control.close()

    play(scene)


def test_a_control_process_that_comes_meanwhile_is_greeted_after_the_orders_of_the_one_before() -> None:
    async def scene() -> None:
        orders = Orders()
        link = ControlLink(orders, ticking())
        former = Control(link).connect()
        former.channel.send(Resources(7, LONG, ()))
        await until(lambda: orders.steps, "the first slice")
        with socket.socket() as sock:
            former.channel.send(Listeners(0, ("a",)), [sock.fileno()])
        former.channel.close()
        control = Control(link).connect()
        assert not control.hears(Hello)
        await until(lambda: control.hears(Hello), "its turn")
        assert orders.steps == STEPS and [type(message) for message, _ in orders.heard] == [
            Resources,
            Listeners,
        ]
        assert not any(isinstance(message, Applied) for message in control.messages), "it asked for nothing"
        control.channel.send(Resources(8, "policy", ()))
        await until(lambda: control.hears(Applied), "it is heard")
        control.close()

    play(scene)


def test_of_two_that_come_meanwhile_the_last_counts() -> None:
    async def scene() -> None:
        orders = Orders()
        link = ControlLink(orders, ticking())
        former = Control(link).connect()
        former.channel.send(Resources(7, LONG, ()))
        await until(lambda: orders.steps, "the first slice")
        between, last = Control(link).connect(), Control(link).connect()
        await until(lambda: last.hears(Hello), "its turn")
        assert between.is_cut_off() and not between.messages
        for control in (former, between, last):
            control.close()

    play(scene)


def test_an_order_that_fails_late_takes_those_behind_it_along_with_their_descriptors() -> None:
    async def scene() -> None:
        orders = Orders()
        control = Control(ControlLink(orders, ticking())).connect()
        await until(lambda: control.hears(Hello), "greeting")
        held = open_descriptors()
        control.channel.send(Resources(7, BAD, ()))
        with socket.socket() as sock:
            control.channel.send(Listeners(0, ("a",)), [sock.fileno()])
        await until(control.is_cut_off, "the end")
        assert [type(message) for message, _ in orders.heard] == [Resources]
        assert open_descriptors() == held - 1, "the channel and nothing else is gone"
        control.close()

    play(scene)
