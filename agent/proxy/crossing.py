"""The host's word on a connection between two of its pods (`--local-path=host`): one by its stack, to ourselves.

No byte takes it: one relay joins the two applications. It says that the host lets the client's pod open a connection
to that port of that pod, and goes on letting it, whether by NetworkPolicy, a firewall or routes. So it is dialled by
the net side, from the client's address to the destination's own port; the host brings it to the plaintext listener, as
it would bring a plain connection of the pod. The source port is one by which the lookup gives it to this very worker
(`own_share`). It is known there by both its addresses and ports, noted when it went on its way, once and for so long
as the dial lasts. A pod cannot make one up: what it sends itself goes to the outbound listener, whatever the ports.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from agent.model.address import SocketAddress
from agent.model.outcome import Outcome, Refusal
from agent.net.dial import Dial, Dialler
from agent.net.farewell import close
from agent.net.loop import Loop, Timer
from agent.net.sockets import SideSockets, was_destroyed
from agent.proxy.life import LEFT
from agent.proxy.own_share import OwnShare

ARRIVES_S = 1.0
"""How long after the dial's answer the other end may take to be accepted: it is in the queue of this worker already."""
PORTS_TRIED = 4096
"""For a port that leads here: one of as many as there are workers does."""
PROBE_IDLE_S, PROBE_EVERY_S, PROBES = 15, 5, 3
"""Of a connection that carries nothing: within half a minute it is known that the host drops it now."""

Ends = tuple[SocketAddress, SocketAddress]
"""Who opens it, and where to."""


class CrossingOwner(Protocol):
    """Who wants it. After `crossed` only `cut` may come; before it, one of the others. From the loop, once."""

    def crossed(self) -> None:
        """The host has let it through, and keeps it open from now on."""

    def failed(self, target: SocketAddress, error: OSError) -> None:
        """It did not get there; TimeoutError where nobody answered in time."""

    def strayed(self) -> None:
        """Another worker has it, who has the listeners now or had them: that says nothing of the host."""

    def cut(self, refusal: Refusal) -> None:
        """It does not count as one of ours, or is open no longer."""


class Crossings:
    """Makes them, and knows those that are on their way; one per worker. `sockets` are of the net side."""

    def __init__(
        self,
        loop: Loop,
        sockets: SideSockets,
        share: OwnShare,
        random_port: Callable[[], int],
        timeout_s: float,
    ) -> None:
        self.loop = loop
        self.share = share
        self.expected: dict[Ends, Crossing] = {}
        self._sockets = sockets
        self._random_port = random_port
        self._timeout_s = timeout_s

    def cross(self, client: SocketAddress, target: SocketAddress, owner: CrossingOwner) -> Crossing:
        """Begin one; `owner` is never called from inside this call."""
        crossing = Crossing(self, client, target, owner)
        dialler = Dialler(
            self.loop,
            self._sockets,
            partial(self._port, client, target),
            self._timeout_s,
            crossing.under_way,
        )
        crossing.begin(dialler, client)
        return crossing

    def resumed(
        self,
        client: SocketAddress,
        target: SocketAddress,
        near: socket.socket,
        far: socket.socket,
        owner: CrossingOwner,
    ) -> Crossing:
        """One that another process had, open at both ends; `go_on` is next."""
        crossing = Crossing(self, client, target, owner)
        crossing.take(near, far)
        return crossing

    def expects(self, peer: SocketAddress, local: SocketAddress) -> bool:
        return (peer, local) in self.expected

    def arrived(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> bool:
        """Whether what was accepted as plaintext is one of ours: the socket is this object's then."""
        crossing = self.expected.pop((peer, local), None)
        if crossing is None:
            return False
        crossing.arrived(sock)
        return True

    def let_go(self, owner: int) -> None:
        """What is on its way to the listeners of this owner is somebody else's from now on."""
        for ends, crossing in tuple(self.expected.items()):
            if self.share.owner(*ends) == owner:
                crossing.stray()

    def _port(self, client: SocketAddress, target: SocketAddress) -> int:
        """One from which a connection comes here."""
        for _ in range(PORTS_TRIED):
            port = self._random_port()
            if self.share.has(SocketAddress(client.ip, port), target):
                break
        return port


class Crossing:
    """One of them: it holds both its ends until `cancel`."""

    __slots__ = ("_client", "_crossings", "_dial", "_ends", "_far", "_near", "_owner", "_target", "_timer")

    def __init__(
        self, crossings: Crossings, client: SocketAddress, target: SocketAddress, owner: CrossingOwner
    ) -> None:
        self._crossings = crossings
        self._client = client
        self._target = target
        self._owner: CrossingOwner | None = owner
        self._dial: Dial | None = None
        self._ends: Ends | None = None
        self._near: socket.socket | None = None
        self._far: socket.socket | None = None
        self._timer: Timer | None = None

    def begin(self, dialler: Dialler, client: SocketAddress) -> None:
        # The client's own port, where it leads here.
        leads_here = self._crossings.share.has(client, self._target)
        source = client if leads_here else SocketAddress(client.ip, 0)
        self._dial = dialler.dial(self._target, source, self)

    def cancel(self) -> None:
        """Give it up, or end it: nobody is called back."""
        self._owner = None
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        loop = self._crossings.loop
        self._stop_timer()
        if self._ends is not None:
            # It may be in the queue of the listener: nobody must take it for a connection of the pod.
            loop.later(ARRIVES_S, self._forget)
        for sock in (self._near, self._far):
            if sock is not None:
                loop.leave(sock.fileno())
                # Neither conntrack of the host nor a port of the net side waits for its end.
                close(sock, reset=True)
        self._near = self._far = None

    # -- from one process to another

    def take(self, near: socket.socket, far: socket.socket) -> None:
        self._near, self._far = near, far

    def go_on(self) -> None:
        """Watch it."""
        for sock in (self._near, self._far):
            if sock is not None:
                self._watch(sock)

    def hand_on(self) -> list[socket.socket]:
        """Both its ends, for another process; it is nothing of this one's any more."""
        ends = [sock for sock in (self._near, self._far) if sock is not None]
        for sock in ends:
            self._crossings.loop.forget(sock.fileno())
        self._owner = self._near = self._far = None
        return ends

    def stray(self) -> None:
        """It does not come here."""
        owner, self._owner = self._owner, None
        self.cancel()
        if owner is not None:
            owner.strayed()

    # -- on its way

    def under_way(self, sock: socket.socket) -> None:
        """The dial's socket, with its port chosen and a SYN sent; the last one counts."""
        self._forget()
        self._ends = (SocketAddress.from_sockname(sock.getsockname()), self._target)
        self._crossings.expected[self._ends] = self

    def connected(self, sock: socket.socket) -> None:
        """The dial's answer."""
        self._dial = None
        self._near = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        self._watch(sock)
        if self._far is not None:
            self._complete()
        else:
            self._timer = self._crossings.loop.later(ARRIVES_S, self._not_arrived)

    def failed(self, target: SocketAddress, error: OSError) -> None:
        """The dial's other answer."""
        self._dial = None
        if error.errno == errno.ECONNRESET and not self._crossings.share.is_settled:
            self.stray()  # it was accepted, and reset at once
            return
        owner, self._owner = self._owner, None
        self._forget()
        self.cancel()
        if owner is not None:
            owner.failed(target, error)

    def arrived(self, sock: socket.socket) -> None:
        """Its other end, out of the listener."""
        self._ends = None
        if self._owner is None:
            close(sock, reset=True)
            return
        self._far = sock
        self._watch(sock)
        if self._near is not None:
            self._complete()

    def _not_arrived(self) -> None:
        if not self._crossings.share.is_settled:
            self.stray()
            return
        self._cut(
            Refusal(
                Outcome.CONNECT_FAILED,
                f"a connection from {self._client.ip} to {self._target} by the host came to somebody else: the host"
                " changes its addresses (masquerade, DNAT), which --local-path=host cannot follow; use hbone",
            )
        )

    def _complete(self) -> None:
        self._stop_timer()
        if self._owner is not None:
            self._owner.crossed()

    # -- while it lasts

    def _watch(self, sock: socket.socket) -> None:
        # An error alone, which is always reported: nothing is said here, and neither end is shut by us.
        self._crossings.loop.watch(sock.fileno(), partial(self._on_event, sock), mask=select.EPOLLET)

    def _on_event(self, sock: socket.socket, mask: int) -> None:
        if sock is not self._near and sock is not self._far:
            return
        # No error: an edge of a former owner of this descriptor number.
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            if self._ends is not None and not self._crossings.share.is_settled:
                self.stray()  # whoever took it for plaintext has refused it
                return
            self._cut(loss(error))

    def _cut(self, refusal: Refusal) -> None:
        owner, self._owner = self._owner, None
        self.cancel()
        if owner is not None:
            owner.cut(refusal)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        ends, self._ends = self._ends, None
        expected = self._crossings.expected
        # A later one may have the same ends.
        if ends is not None and expected.get(ends) is self:
            del expected[ends]


def loss(error: int) -> Refusal:
    """What it means that the host no longer has the connection; `error` is an errno."""
    if was_destroyed(error):
        return Refusal(Outcome.POD_REMOVED, LEFT)
    return Refusal(
        Outcome.RESET, f"the host has cut it: a NetworkPolicy or a firewall rule ({os.strerror(error)})"
    )
