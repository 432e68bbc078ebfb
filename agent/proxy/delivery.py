"""The last leg of every inbound connection: register, judge, dial the application from the client's address.

Shared by tunnels, plaintext and the hand-over inside the node, so that none of them can skip a step. The
order matters: registered first, then judged, so a policy that arrives in between still finds the connection;
the dial starts only after the verdict, and a verdict that changes while dialling ends it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from agent.model.address import IP, SocketAddress
from agent.model.connection import Connection
from agent.model.outcome import Outcome, Refusal
from agent.model.workload import Workload
from agent.net.dial import Dial, dial
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.policy.evaluate import evaluate
from agent.proxy.connector import dial_refusal
from agent.proxy.registry import Live, Registry
from agent.state.store import Store


@dataclass(frozen=True, slots=True)
class ProxyAddresses:
    """The addresses on lo of both private namespaces: the source where a pod reaches itself."""

    v4: IP
    v6: IP

    def like(self, ip: IP) -> IP:
        return self.v4 if ip.version == 4 else self.v6


class Delivery:
    """Makes deliveries; one per worker. `sockets` are of the pod side: they can only reach pods."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        registry: Registry,
        sockets: SideSockets,
        random_port: Callable[[], int],
        proxy: ProxyAddresses,
        connect_timeout_s: float,
    ) -> None:
        self.loop = loop
        self.store = store
        self.registry = registry
        self._sockets = sockets
        self._random_port = random_port
        self._proxy = proxy
        self._connect_timeout_s = connect_timeout_s

    def admit(self, live: Live, workload: Workload) -> None:
        """Register the connection and judge it. Raises Refusal; the caller removes it from the registry."""
        if self.registry.is_full:
            raise Refusal(Outcome.OVERLOADED)
        live.destination_uid = workload.uid
        self.registry.add(live)
        assert live.connection is not None
        decision = evaluate(live.connection, workload, self.store.current)
        if not decision.allowed:
            raise Refusal(Outcome.POLICY_DENIED, decision.reason)

    def dial(
        self,
        connection: Connection,
        *,
        keep_port: bool,
        connected: Callable[[socket.socket], None],
        failed: Callable[[Refusal], None],
    ) -> Dial:
        """Connect to the application from the client's address; `keep_port` tries its own port first."""
        source = connection.source
        # A pod drops packets that come from itself: whoever calls its own Service is met by the proxy address.
        ip = self._proxy.like(source.ip) if source.ip == connection.destination.ip else source.ip
        port = source.port if keep_port else self._random_port()

        def done(result: socket.socket | OSError) -> None:
            if isinstance(result, OSError):
                failed(dial_refusal(result, connection.destination))
            else:
                connected(result)

        return dial(
            self.loop,
            self._sockets,
            connection.destination,
            source=SocketAddress(ip, port),
            timeout_s=self._connect_timeout_s,
            random_port=self._random_port,
            done=done,
        )


def reset(sock: socket.socket) -> None:
    """Close with an RST, so that the other end learns at once that nothing was accepted."""
    # SO_LINGER {on, 0}: close() sends RST and leaves no TIME_WAIT.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()
