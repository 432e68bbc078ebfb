"""The worker's end of the channel: whoever connected last is the control process.

A control process that goes away is no reason to stop: the worker goes on with the last state, and the next one
is greeted with what this worker serves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from agent.channel import ChannelError, GoOn, Message
from agent.channel_socket import Channel
from agent.model.steps import SLICE_S, goes_on

log = logging.getLogger(__name__)


class TakesOrders(Protocol):
    """What carries out the orders of the control process."""

    def hello(self, to: Channel) -> None: ...

    def carry_out(
        self, message: Message, fds: Sequence[int], reply: Callable[[Message], None]
    ) -> Iterator[None] | None:
        """What it answers is the rest of the work, in steps; nothing else may be ordered before its end."""
        ...

    def left_alone(self) -> None:
        """The control process is gone and its orders are carried out: what it had only begun to say has no end."""


class ControlLink:
    """The worker's end of the channel: whoever connected last is the control process.

    Orders are carried out in their order, the long ones in slices, between which the loop serves others for as long
    again. While one is under way nothing more is read, so that what control has still to say waits there.
    """

    def __init__(self, orders: TakesOrders, clock: Callable[[], float] = time.monotonic) -> None:
        self._orders = orders
        self._clock = clock
        self._channel: Channel | None = None
        self._comer: socket.socket | None = None
        """A control process that came while orders of the one before it were under way."""
        self._waiting: deque[tuple[Message, list[int]]] = deque()
        self._work: Iterator[None] | None = None
        """What is left of the orders that were begun, and of those that wait."""
        self._is_end_told = False
        """This control process has said that it ends: nobody has to look why."""
        self._next_slice: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def is_connected(self) -> bool:
        return self._channel is not None

    def connected(self, sock: socket.socket) -> None:
        """A control process has come. What the one before it has still ordered is carried out first.

        A listener on its way in an order that nobody read would be lost, with its queue.
        """
        self._read(None)
        self._part()
        if self._comer is not None:
            self._comer.close()
        self._comer = sock
        if self._next_slice is None:
            self._carry_out()

    def send(self, message: Message) -> None:
        self._write(lambda channel: channel.send(message))

    def report(self, figures: Callable[[], Message]) -> None:
        """Send figures, unless messages still wait: a control process that stands still gets later ones."""
        if self._channel is not None and not self._channel.wants_write:
            self.send(figures())

    def stop(self) -> None:
        """Hear nothing more. The socket ends with the process, which is what control takes for the end of it."""
        if self._next_slice is not None:
            self._next_slice.cancel()
            self._next_slice = None
        if self._channel is not None:
            self._loop.remove_reader(self._channel.sock)
            self._loop.remove_writer(self._channel.sock)

    def _readable(self) -> None:
        self._read(1)
        if self._next_slice is None:
            self._carry_out()

    def _read(self, most_reads: int | None) -> None:
        """Take what has arrived, or some of it."""
        if self._channel is None:
            return
        try:
            self._waiting.extend(self._channel.receive(most_reads))
        except ChannelError as error:
            level = logging.INFO if self._is_end_told else logging.WARNING
            log.log(level, "control process: %s; going on with the last state", error)
            self._part()

    def _carry_out(self) -> None:
        """One slice of the orders that wait."""
        self._next_slice = None
        self._work = self._work or self._orders_waiting()
        try:
            is_more = goes_on(self._work, self._clock)
        except Exception as error:
            # Without the channel control ends this worker: it must not judge by a state that is not whole.
            log.error("an order could not be carried out", exc_info=error)
            self._give_up()
            is_more = False
        if is_more:
            self._next_slice = self._loop.call_later(SLICE_S, self._carry_out)
            if self._channel is not None:
                self._loop.remove_reader(self._channel.sock)
            return
        self._work = None
        if self._comer is not None:
            self._channel, self._comer = Channel(self._comer), None
            self._is_end_told = False
            self._write(lambda channel: self._orders.hello(channel))
        if self._channel is not None:
            self._loop.add_reader(self._channel.sock, self._readable)
        else:
            self._orders.left_alone()

    def _orders_waiting(self) -> Iterator[None]:
        while self._waiting:
            message, fds = self._waiting.popleft()
            self._is_end_told = self._is_end_told or isinstance(message, GoOn)
            yield from self._orders.carry_out(message, fds, self.send) or ()
            yield

    def _give_up(self) -> None:
        for _, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
        self._part()

    def _write(self, write: Callable[[Channel], None]) -> None:
        if self._channel is None:
            return
        try:
            write(self._channel)
        except ChannelError:
            # Its last orders may lie unread: they are carried out before the end is found, by the reader.
            self._channel.break_off()
            self._loop.remove_writer(self._channel.sock)
            return
        if self._channel.wants_write:
            self._loop.add_writer(self._channel.sock, lambda: self._write(Channel.flush))
        else:
            self._loop.remove_writer(self._channel.sock)

    def _part(self) -> None:
        """Let go of the channel; what came by it is still carried out."""
        if self._channel is not None:
            self._loop.remove_reader(self._channel.sock)
            self._loop.remove_writer(self._channel.sock)
            self._channel.close()
            self._channel = None
