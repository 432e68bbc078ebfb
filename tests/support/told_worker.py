"""A worker's orders at one end of a real channel, with the test as control process at the other.

Messages and descriptors cross a socketpair as they do between the processes; only the processes are one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent import channel
from agent.channel import Message
from agent.channel_socket import Channel
from agent.handover.hands import Hands
from agent.identity.credentials import Credentials
from agent.pb import authorization_pb2
from agent.proxy.dataplane import DataPlane
from agent.proxy.drain import Drain
from agent.proxy.orders import Orders
from agent.wire.xds_delta import AUTHORIZATION
from tests.support.datapath import DataPath, Driver

M = TypeVar("M", bound=Message)


class ToldWorker:
    """`tell` returns when the order was carried out; `ended` counts how often the worker said it was drained."""

    def __init__(self, driver: Driver, plane: DataPath) -> None:
        self.driver = driver
        self.plane = plane
        self.ended = 0
        self.orders = orders_of(plane, lambda deadline_s: self.drain.start(deadline_s))
        self.drain = Drain(plane, self.orders.stop_accepting, self._finished)
        ours, theirs = socket.socketpair()
        self._control, self._worker = Channel(ours), Channel(theirs)

    def _finished(self) -> None:
        self.ended += 1

    def tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Raises ChannelError where the worker would drop its channel."""
        self._control.send(message, fds)
        self.driver.call(self._carry_out)

    def _carry_out(self) -> None:
        for message, fds in self._worker.receive():
            for _ in self.orders.carry_out(message, fds, self._worker.send) or ():
                pass

    def hear(self, kind: type[M]) -> tuple[M, list[int]]:
        """The one message that came since, which must be of this kind, with its fds."""
        ((message, fds),) = self._control.receive()
        assert isinstance(message, kind), message
        return message, fds

    def introduced(self) -> tuple[channel.Hello, list[int]]:
        """What a control process that connects now is told."""
        self.driver.call(lambda: self.orders.hello(self._worker))
        return self.hear(channel.Hello)

    def deny(self, revision: int, account: str) -> None:
        """A policy against a service account, as control passes it on; `hear(Applied)` says that it is in force."""
        match = authorization_pb2.Match(principals=[authorization_pb2.StringMatch(suffix=f"/sa/{account}")])
        policy = authorization_pb2.Authorization(
            name="deny",
            namespace="apps",
            scope=authorization_pb2.NAMESPACE,
            action=authorization_pb2.DENY,
            rules=[authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[match])])],
        )
        update = ("apps/deny", policy.SerializeToString())
        self.tell(channel.Resources(revision, AUTHORIZATION, [update]))

    def close(self) -> None:
        self.driver.call(self.orders.stop_accepting)
        self._control.close()
        self._worker.close()


def orders_of(
    plane: DataPlane, drain: Callable[[float], None] = lambda _: None, outputs: tuple[int, int] = (1, 2)
) -> Orders:
    """What carries out a worker's orders, with its hands; `drain` hears that it is to end."""
    hands = Hands(plane, lambda: orders.stop_accepting(), drain)
    orders = Orders(plane, 3, "0.1+test", drain, hands, 5.0, outputs)
    return orders


def secret(credentials: Credentials) -> channel.Secret:
    """A certificate as control passes it on."""
    return channel.Secret(
        str(credentials.identity),
        credentials.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        [certificate.public_bytes(Encoding.DER) for certificate in credentials.chain],
        [certificate.public_bytes(Encoding.DER) for certificate in credentials.roots],
        credentials.ends,
    )


def same_file(one: int, other: int) -> bool:
    """Whether two descriptors are of one open file's inode (a socket's names it)."""
    return os.fstat(one).st_ino == os.fstat(other).st_ino
