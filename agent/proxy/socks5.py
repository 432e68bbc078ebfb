"""SOCKS5 for enrolled pods (`--socks5`): they reach it at the proxy's own address, by a connection that is captured as
any other, and so it is known whose it is. What a client asks for becomes a captured connection of its pod to there:
the same route, policy, metrics and line. The client is answered when its destination has, and with the reason if not.

Names are those of the mesh first, as its DNS has them, and else asked of the node's name servers in the pod's name.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

from agent.model.address import IP, SocketAddress, is_nobodys
from agent.model.listener import SOCKS5_PORT
from agent.model.outcome import Outcome, Refusal
from agent.net.accept import OnAccept
from agent.net.farewell import Farewell, close
from agent.net.loop import BROKEN, Loop, Timer
from agent.proxy.dns_service import DnsService
from agent.proxy.life import Relay
from agent.proxy.outbound import Outbound, OutboundConnection
from agent.proxy.registry import SOCKS5, Live
from agent.proxy.socks5_names import Lookup
from agent.wire.socks5 import Asked, Conversation, NotServed, Reply, reply

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""For the request to be there."""
MOST_OF_A_POD, MOST = 256, 1024
"""Clients that are not on their way to a destination yet."""
OF_OUTCOME = {
    Outcome.POLICY_DENIED: Reply.NOT_ALLOWED,
    Outcome.POLICY_CHANGED: Reply.NOT_ALLOWED,
    Outcome.WAYPOINT_BYPASSED: Reply.NOT_ALLOWED,
    Outcome.SELF_CALL: Reply.NOT_ALLOWED,
    Outcome.UNKNOWN_MESH_DESTINATION: Reply.HOST_UNREACHABLE,
    Outcome.UNDECLARED_SERVICE_PORT: Reply.REFUSED,
    Outcome.NO_HEALTHY_UPSTREAM: Reply.HOST_UNREACHABLE,
    Outcome.UNRESOLVED: Reply.HOST_UNREACHABLE,
    Outcome.CONNECT_FAILED: Reply.REFUSED,
    Outcome.CONNECT_TIMEOUT: Reply.HOST_UNREACHABLE,
    Outcome.HBONE_TIMEOUT: Reply.HOST_UNREACHABLE,
}
"""Others are a failure of a general kind."""
OF_ERRNO = {
    errno.ECONNREFUSED: Reply.REFUSED,
    errno.ENETUNREACH: Reply.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Reply.HOST_UNREACHABLE,
    errno.EACCES: Reply.NOT_ALLOWED,
    errno.EPERM: Reply.NOT_ALLOWED,
}
FORBIDDEN = (401, 403)
"""What the other node answers to a CONNECT that its policy denies."""


class Socks5:
    """One per worker. `own_addresses`: where it is; `name_servers`: the node's, as they are now. Nothing that
    `is_nobodys` is dialled: a pod's own packets cannot be meant for that here, but a name may stand for it."""

    def __init__(
        self,
        outbound: Outbound,
        names: DnsService,
        own_addresses: Collection[IP],
        name_servers: Callable[[], tuple[IP, ...]],
        is_nobodys: Callable[[IP], bool] = is_nobodys,
    ) -> None:
        self.loop: Loop = outbound.loop
        self.outbound = outbound
        self.names = names
        self.name_servers = name_servers
        self.is_nobodys = is_nobodys
        self._own = frozenset(own_addresses)
        self._open: Counter[IP] = Counter()

    def is_asked(self, peer: SocketAddress, local: SocketAddress) -> bool:
        """Whether this connection comes here."""
        return local.port == SOCKS5_PORT and local.ip in self._own

    def before(self, handler: OnAccept) -> OnAccept:
        """The handler of captured connections, behind those that come here."""
        return partial(self._accepted, handler)

    def _accepted(
        self, handler: OnAccept, sock: socket.socket, peer: SocketAddress, local: SocketAddress
    ) -> None:
        if self.is_asked(peer, local):
            self.accepted(sock, peer, local)
        else:
            handler(sock, peer, local)

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        # No pod has more than is left: however few ask for much, somebody who asks for little finds room.
        if self._open[peer.ip] >= min(MOST_OF_A_POD, MOST - self._open.total()):
            self.refused(peer, local, Refusal(Outcome.OVERLOADED, "too many SOCKS5 requests are under way"))
            close(sock, reset=True)
            return
        if self.outbound.registry.is_full:
            self.refused(peer, local, Refusal(Outcome.OVERLOADED))
            close(sock, reset=True)
            return
        self._open[peer.ip] += 1
        Socks5Client(self, sock, peer, local).start()

    def left(self, client: IP) -> None:
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]

    def refused(self, peer: SocketAddress, local: SocketAddress, refusal: Refusal) -> None:
        """A line and a count of a request that led to no connection."""
        self.outbound.reporter.refused(
            OutboundConnection.direction, peer, local, refusal.outcome, refusal.detail
        )


class Socks5Client:
    """A client up to its request, and while the name in it is looked up; it owns the socket until then."""

    __slots__ = ("_conversation", "_live", "_local", "_lookup", "_peer", "_service", "_sock", "_timer")

    def __init__(
        self, service: Socks5, sock: socket.socket, peer: SocketAddress, local: SocketAddress
    ) -> None:
        self._service = service
        self._sock = sock
        self._peer, self._local = peer, local
        self._live: Live | None = Live(
            OutboundConnection.direction, peer.ip, peer, local, local, SOCKS5, self
        )
        self._conversation = Conversation()
        self._lookup: Lookup | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        loop = self._service.loop
        loop.watch(self._sock.fileno(), self._on_ready, self._on_crash)
        self._timer = loop.later(PATIENCE_S, self._on_time)
        assert self._live is not None
        self._service.outbound.registry.add(self._live)
        self._go_on()

    def close(self, outcome: Outcome, detail: str) -> None:
        """Its pod leaves, or the agent stops."""
        self._cut(detail, outcome)

    def _on_ready(self, mask: int) -> None:
        if mask & BROKEN:
            self._cut("the client gave up before its request was there")
        elif self._lookup is None:
            self._go_on()

    def _go_on(self) -> None:
        conversation = self._conversation
        try:
            while self._sock.fileno() >= 0 and (wanted := conversation.wanted):
                data = self._sock.recv(wanted)
                if not data:
                    self._cut("the client ended before its request was there")
                    return
                if answer := conversation.receive(data):
                    self._sock.send(answer)
        except BlockingIOError:
            return
        except OSError as error:
            self._cut(f"the client is gone: {error.strerror or error}")
            return
        except NotServed as error:
            self._end(error.answer, Refusal(Outcome.BAD_REQUEST, f"SOCKS5: {error}"))
            return
        if conversation.asked is not None:
            self._asked(conversation.asked)

    def _asked(self, asked: Asked) -> None:
        if asked.ip is not None:
            self._found(asked.ip)
            return
        # The lookup ends by itself, in time.
        self._stop_timer()
        service = self._service
        self._lookup = Lookup(
            service.names,
            self._peer.ip,
            asked.name,
            self._versions(),
            service.name_servers(),
            self._named,
        )
        self._lookup.start()

    def _versions(self) -> tuple[int, ...]:
        """The families that are of use to the pod, the one it came by first."""
        pod = self._service.outbound.pods.at(self._peer.ip)
        others = {ip.version for ip in pod.addresses} if pod is not None else set()
        return (self._peer.ip.version, *sorted(others - {self._peer.ip.version}))

    def _named(self, ip: IP | None, why: str) -> None:
        if self._sock.fileno() < 0:
            return
        if ip is not None:
            self._found(ip)
        else:
            self._end(reply(Reply.HOST_UNREACHABLE), Refusal(Outcome.UNRESOLVED, why))

    def _found(self, ip: IP) -> None:
        """Go on as a captured connection of the pod's, from its address of that family."""
        asked = self._conversation.asked
        assert asked is not None
        if self._service.is_nobodys(ip):
            refusal = Refusal(Outcome.UNSUPPORTED, f"{asked} is at {ip}, where no other host can be")
            self._end(reply(Reply.NOT_ALLOWED), refusal)
            return
        pod = self._service.outbound.pods.at(self._peer.ip)
        sources = [each for each in pod.addresses if each.version == ip.version] if pod is not None else []
        source = self._peer.ip if self._peer.ip.version == ip.version else sources[0] if sources else None
        if source is None:
            why = f"the pod has no address of IPv{ip.version} to reach {asked} from"
            self._end(reply(Reply.ADDRESS_UNKNOWN), Refusal(Outcome.UNSUPPORTED, why))
            return
        self._leave()
        client = SocketAddress(source, self._peer.port)
        target = SocketAddress(ip, asked.port)
        Socks5Connection(self._service.outbound, self._sock, client, target).start()

    def _on_time(self) -> None:
        self._timer = None
        self._cut(f"no SOCKS5 request in {PATIENCE_S:g} s")

    def _on_crash(self, error: BaseException) -> None:
        self._cut(f"a defect in ztun: {error}")

    def _cut(self, why: str, outcome: Outcome = Outcome.RESET) -> None:
        if self._sock.fileno() >= 0:
            self._leave()
            self._service.refused(self._peer, self._local, Refusal(outcome, why))
            close(self._sock, reset=True)

    def _end(self, answer: bytes, refusal: Refusal) -> None:
        self._leave()
        self._service.refused(self._peer, self._local, refusal)
        Farewell(self._service.loop, self._sock, bytearray(answer)).start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._stop_timer()
        if self._live is not None:
            self._service.outbound.registry.remove(self._live)
            self._live = None  # it holds this object
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None
        self._service.loop.forget(self._sock.fileno())
        self._service.left(self._peer.ip)


class Socks5Connection(OutboundConnection):
    """Told of what became of its destination by the protocol, where others are accepted before or reset after."""

    __slots__ = ("_code",)

    def __init__(
        self, outbound: Outbound, client: socket.socket, peer: SocketAddress, local: SocketAddress
    ) -> None:
        super().__init__(outbound, client, peer, local)
        self._code: Reply | None = None

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self._code = OF_ERRNO.get(error.errno or 0)
        super().failed(target, error)

    def refused(self, refusal: Refusal) -> None:
        if refusal.status in FORBIDDEN:
            self._code = Reply.NOT_ALLOWED
        elif refusal.status:
            # Whatever the other node met when it dialled: it says no more than that.
            self._code = Reply.REFUSED
        super().refused(refusal)

    def _carry(self, relay: Relay) -> None:
        # Its send buffer is empty but for the two bytes of before.
        self._sock.send(reply(Reply.SUCCEEDED))
        super()._carry(relay)

    def _turn_away(self, outcome: Outcome) -> None:
        code = self._code if self._code is not None else OF_OUTCOME.get(outcome, Reply.FAILED)
        Farewell(self._loop, self._sock, bytearray(reply(code))).start()
