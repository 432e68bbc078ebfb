"""What is under way, frozen and gone on with from nothing but its bytes and copies of its descriptors."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from agent.model.identity import Identity
from agent.model.unit import PlainValue, Unit, decode, encode
from agent.net.dial import Dial, Dialler, DialOwner
from agent.net.plain_relay import PlainRelay, PlainRelayOwner
from agent.net.relay import TunnelRelay, TunnelRelayOwner
from agent.net.tunnel import Tunnel, TunnelClientEvents, TunnelServerEvents
from agent.net.tunnel_link import TunnelLink
from agent.wire.h2_events import Limits
from tests.support.netpair import Node


def carried(kind: str, fields: dict[str, PlainValue]) -> dict[str, PlainValue]:
    """The same fields, on the other side of a socket."""
    unit = decode(encode(Unit(kind, fields)))
    assert unit.kind == kind
    return unit.fields


def copy(it: Node, sock: socket.socket) -> socket.socket:
    """As SCM_RIGHTS makes it: the same socket by another descriptor, of which Python knows nothing."""
    return it.keep(socket.socket(fileno=os.dup(sock.fileno())))


def plain_handed_over(it: Node, relay: PlainRelay, owner: PlainRelayOwner) -> PlainRelay:
    assert not relay.stays
    relay.freeze()
    state = carried("plain", relay.state())
    client, server = (copy(it, sock) for sock in relay.sockets())
    relay.let_go()
    made = PlainRelay.from_state(it.loop, state, client, server, owner)
    assert made.state() == relay.state()
    made.start()
    return made


def dial_handed_over(it: Node, dialler: Dialler, dial: Dial, owner: DialOwner) -> Dial:
    assert not dial.stays
    dial.freeze()
    state = carried("dial", dial.state())
    sock = copy(it, dial.sock)
    dial.let_go()
    made = Dial.from_state(dialler, state, sock, owner)
    assert made.state() == dial.state()
    made.start(made.left_s)
    return made


def anybody(peer: Identity) -> str:
    return ""


class Handed:
    """A link with its relays, gone on with: by each of the old ones the new one."""

    def __init__(
        self,
        it: Node,
        link: TunnelLink,
        relays: Sequence[TunnelRelay],
        events: TunnelServerEvents | TunnelClientEvents,
        owner: TunnelRelayOwner,
        limits: Limits | None = None,
    ) -> None:
        moving = [relay for relay in relays if not relay.stays]
        for relay in relays:
            if relay.stays:
                relay.leave()
        assert not link.stays and link.freeze()
        for relay in moving:
            relay.freeze()
        state = carried("link", {"link": link.state(), "relays": [relay.state() for relay in moving]})
        socks = [copy(it, each.sock) for each in (link, *moving)]
        before = link.tunnels()
        link.let_go()
        for relay in moving:
            relay.let_go()
        self.link = TunnelLink.from_state(
            it.loop,
            state["link"],
            socks[0],
            events,
            is_server=link.is_server,
            check=anybody,
            wants_chain=False,
            group="",
            limits=limits,
        )
        self.tunnels: dict[Tunnel, Tunnel] = dict(zip(before, self.link.tunnels(), strict=True))
        states = state["relays"]
        assert isinstance(states, list)
        self.relays = {
            relay: TunnelRelay.from_state(it.loop, each, sock, self.link, owner)
            for relay, each, sock in zip(moving, states, socks[1:], strict=True)
        }
        again = carried(
            "link", {"link": self.link.state(), "relays": [relay.state() for relay in self.relays.values()]}
        )
        assert again == state, "something of it was lost on the way"

    def start(self) -> None:
        """Once everything has its owner."""
        self.link.start()
        for relay in self.relays.values():
            relay.start()
