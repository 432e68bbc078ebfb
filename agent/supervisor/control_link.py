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

    def connected(self, sock: socket.socket) -> None:
        self._drop()
        self._channel = Channel(sock)
        self._loop.add_reader(sock, self._readable)
        self._orders.hello(self._channel)

    def send(self, message: Message) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(message)
        except ChannelError as error:
            log.warning("control process: %s; going on with the last state", error)
            self._drop()
            return
        if self._channel.wants_write:
            self._loop.add_writer(self._channel.sock, self._writable)

    def _readable(self) -> None:
        if self._channel is None:
            return
        try:
            for message, fds in self._channel.receive():
                self._orders.carry_out(message, fds, self.send)
        except ChannelError as error:
            log.warning("control process: %s; going on with the last state", error)
            self._drop()

    def _writable(self) -> None:
        if self._channel is None:
            return
        try:
            self._channel.flush()
        except ChannelError as error:
            log.warning("control process: %s; going on with the last state", error)
            self._drop()
            return
        if not self._channel.wants_write:
            self._loop.remove_writer(self._channel.sock)

    def _drop(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel.sock)
            self._loop.remove_writer(self._channel.sock)
            self._channel.close()
            self._channel = None
