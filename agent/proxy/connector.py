"""Makes the outbound HBONE connection of a pool key: dial by the net side in the pod's name, then mTLS."""

from __future__ import annotations

import socket
from collections.abc import Hashable
from functools import partial

from agent.identity.handshake import Session
from agent.identity.presented import is_server_of
from agent.identity.revocations import Revocations
from agent.model.address import SocketAddress
from agent.model.identity import Identity
from agent.model.unit import PlainValue
from agent.net.byte_stream import ByteStream, SocketStream
from agent.net.dial import Dial, Dialler, DialOwner
from agent.net.tunnel import Tunnel, TunnelClientEvents
from agent.net.tunnel_link import TunnelLink
from agent.net.tunnel_stream import TunnelStream
from agent.net.turns import Turns
from agent.proxy.pool_key import PoolKey
from agent.proxy.secrets import Secrets
from agent.wire.h2_events import Limits


class HboneConnector:
    """Dials from the source pod's address, so that the peer and NetworkPolicy see the pod.

    However many handshakes are due: a step of one is taken in each round of the loop, pods one after another.
    """

    def __init__(
        self,
        dialler: Dialler,
        secrets: Secrets,
        revocations: Revocations | None,
        limits: Limits,
        *,
        handshake_timeout_s: float,
        streams_limit: int,
    ) -> None:
        self._dialler = dialler
        self._secrets = secrets
        self._revocations = revocations
        self._limits = limits
        self._turns = Turns(dialler.loop)
        self._handshake_timeout_s = handshake_timeout_s
        self._streams_limit = streams_limit

    def dial(self, key: PoolKey, owner: DialOwner) -> Dial:
        source = SocketAddress(key.client_ip, self._dialler.random_port())
        return self._dialler.dial(key.target, source, owner)

    def link(self, key: PoolKey, sock: socket.socket, events: TunnelClientEvents) -> TunnelLink:
        """The link over a socket that `dial` connected, not started. Raises Refusal; the socket is closed then."""
        try:
            # The certificate is looked up after the dial: it may have been renewed meanwhile.
            session = Session.client(self._secrets.get(key.source), key.accepted, self._revocations)
        except BaseException:
            self._dialler.loop.forget(sock.fileno())
            sock.close()
            raise
        return self._linked(SocketStream(self._dialler.loop, sock), session, events, key.client_ip)

    def resumed(
        self, key: PoolKey, state: PlainValue, sock: socket.socket, events: TunnelClientEvents
    ) -> TunnelLink:
        """The link that another process had, not started. Raises BadUnit; the socket stays the caller's then."""
        return TunnelLink.from_state(
            self._dialler.loop,
            state,
            sock,
            events,
            is_server=False,
            check=is_server_of(key.accepted),
            wants_chain=self._revocations is not None,
            group=self._secrets.group,
            limits=self._limits,
            streams_limit=self._streams_limit,
        )

    def inside(
        self, source: Identity, accepted: tuple[Identity, ...], tunnel: Tunnel, events: TunnelClientEvents
    ) -> TunnelLink:
        """A link in a tunnel of another one, not started. Raises Refusal; the tunnel is reset then."""
        try:
            session = Session.client(self._secrets.get(source), accepted, self._revocations)
        except BaseException:
            tunnel.reset()
            raise
        return self._linked(TunnelStream(self._dialler.loop, tunnel), session, events, source)

    def _linked(
        self, stream: ByteStream, session: Session, events: TunnelClientEvents, whose: Hashable
    ) -> TunnelLink:
        return TunnelLink.fresh(
            self._dialler.loop,
            stream,
            session,
            events,
            limits=self._limits,
            streams_limit=self._streams_limit,
            handshake_timeout_s=self._handshake_timeout_s,
            ask_turn=partial(self._turns.ask, whose),
        )
