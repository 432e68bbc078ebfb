"""Makes the outbound HBONE connection of a pool key: dial by the net side in the pod's name, then mTLS."""

from __future__ import annotations

import socket
from collections.abc import Callable

from agent.identity.handshake import HandshakeError, Session
from agent.model.address import SocketAddress
from agent.model.outcome import Outcome, Refusal
from agent.net.dial import dial
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.net.tunnel_link import TunnelLink
from agent.proxy.pool import LinkEvents, PoolKey
from agent.proxy.secrets import Secrets


class HboneConnector:
    """Dials from the source pod's address, so that the peer and NetworkPolicy see the pod."""

    def __init__(
        self,
        loop: Loop,
        sockets: SideSockets,
        secrets: Secrets,
        random_port: Callable[[], int],
        *,
        connect_timeout_s: float,
        handshake_timeout_s: float,
        streams_limit: int,
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._secrets = secrets
        self._random_port = random_port
        self._connect_timeout_s = connect_timeout_s
        self._handshake_timeout_s = handshake_timeout_s
        self._streams_limit = streams_limit

    def __call__(
        self,
        key: PoolKey,
        events: LinkEvents,
        linked: Callable[[TunnelLink], None],
        failed: Callable[[Refusal], None],
    ) -> None:
        def dialled(result: socket.socket | OSError) -> None:
            if isinstance(result, OSError):
                failed(dial_refusal(result, key.target, is_hbone=True))
                return
            try:
                # The certificate is looked up after the dial: it may have been renewed meanwhile.
                session = Session.client(self._secrets.get(key.source), key.accepted)
            except (Refusal, HandshakeError) as refusal:
                result.close()
                failed(refusal)
                return
            linked(
                TunnelLink(
                    self._loop,
                    result,
                    session,
                    events,
                    streams_limit=self._streams_limit,
                    handshake_timeout_s=self._handshake_timeout_s,
                )
            )

        source = SocketAddress(key.client_ip, self._random_port())
        dial(
            self._loop,
            self._sockets,
            key.target,
            source=source,
            timeout_s=self._connect_timeout_s,
            random_port=self._random_port,
            done=dialled,
        )


def dial_refusal(error: OSError, target: SocketAddress, *, is_hbone: bool = False) -> Refusal:
    """What a failed connect means for the connection that wanted it."""
    if isinstance(error, TimeoutError):
        outcome = Outcome.HBONE_TIMEOUT if is_hbone else Outcome.CONNECT_TIMEOUT
        return Refusal(outcome, f"connect to {target}: timed out; {outcome.hint}")
    return Refusal(Outcome.CONNECT_FAILED, f"connect to {target}: {error.strerror or error}")
