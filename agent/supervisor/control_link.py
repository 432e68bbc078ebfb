"""The worker's end of the channel: whoever connected last is the control process.

A control process that goes away is no reason to stop: the worker goes on with the last state, and the next one
is greeted with what this worker serves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from agent.channel import Channel, ChannelError, Message

log = logging.getLogger(__name__)


class TakesOrders(Protocol):
    """What carries out the orders of the control process."""

    def hello(self, to: Channel) -> None: ...

    def carry_out(self, message: Message, fds: Sequence[int], reply: Callable[[Message], None]) -> None: ...


class ControlLink:
    """The worker's end of the channel: whoever connected last is the control process."""

    def __init__(self, orders: TakesOrders) -> None:
        self._orders = orders
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def is_connected(self) -> bool:
        return self._channel is not None

    def connected(self, sock: socket.socket) -> None:
        """A control process has come. What the one before it has still ordered is carried out first.

        A listener on its way in an order that nobody read would be lost, with its queue.
        """
        self._readable()
        self._drop()
        self._channel = Channel(sock)
        self._loop.add_reader(sock, self._readable)
        self._write(lambda channel: self._orders.hello(channel))

    def send(self, message: Message) -> None:
        self._write(lambda channel: channel.send(message))

    def report(self, figures: Message) -> None:
        """Send absolute figures, unless messages still wait: a control process that stands still gets later ones."""
        if self._channel is not None and not self._channel.wants_write:
            self.send(figures)

    def stop(self) -> None:
        """Hear nothing more. The socket ends with the process, which is what control takes for the end of it."""
        if self._channel is not None:
            self._loop.remove_reader(self._channel.sock)
            self._loop.remove_writer(self._channel.sock)

    def _readable(self) -> None:
        if self._channel is None:
            return
        try:
            for message, fds in self._channel.receive():
                self._orders.carry_out(message, fds, self.send)
        except ChannelError as error:
            log.warning("control process: %s; going on with the last state", error)
            self._drop()
        except Exception as error:
            # Without the channel control ends this worker: it must not judge by a state that is not whole.
            log.error("an order could not be carried out", exc_info=error)
            self._drop()

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

    def _drop(self) -> None:
        if self._channel is not None:
            self.stop()
            self._channel.close()
            self._channel = None
