"""Connections at the tunnel port whose peer has not said a whole hello of TLS: anybody's, so as cheap as can be.

Each is a socket and what it has said, one record at most. They have an epoll of their own, of which a little is looked
at in each round of the loop: however many they are, what members send does not stand in line behind them. A hello that
is whole waits for its turn (`handshakes`), and only then is anything of TLS made; what does not begin like one is
closed here.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Protocol

from agent.identity.faults import Fault
from agent.model.address import IP, SocketAddress
from agent.net.farewell import close
from agent.net.loop import ENDED, Loop, Timer
from agent.proxy.handshakes import Handshakes
from agent.wire.tls_records import HEADER_BYTES, MAX_CIPHER_BYTES

LOOKS = 64
"""How many of them are looked at in a round, at most."""
SLICE_S = 0.001
"""For how long, at most."""
GIVEN_UP = frozenset({Fault.CROWDED, Fault.SOURCE_CROWDED})
"""No fault of its own."""
_HANDSHAKE, _MAJOR_VERSION, _CLIENT_HELLO = 22, 3, 1  # RFC 8446 5.1 and 4


class LobbyOwner(Protocol):
    def called(self, caller: Caller, left_s: float) -> None:
        """It has said hello, and it is its turn. The socket is the owner's; `left_s` are for its handshake."""

    def turned_away(self, caller: Caller, fault: Fault, detail: str) -> None:
        """It is closed."""


class Caller:
    """One connection in the lobby."""

    __slots__ = ("_lobby", "is_watched", "local", "peer", "said", "since_s", "sock")

    def __init__(self, lobby: Lobby, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        self._lobby = lobby
        self.sock = sock
        self.peer = peer
        self.local = local
        self.said = b""
        """What it has said so far."""
        self.since_s = 0.0
        self.is_watched = False
        """The lobby's epoll has it: until its turn has been asked for."""

    def give_up(self, fault: Fault, detail: str) -> None:
        self._lobby.turn_away(self, fault, detail)

    def step(self) -> bool:
        return self._lobby.admit(self)


class Lobby:
    """One per worker. Nobody stays longer than `timeout_s`, whatever trickles in."""

    def __init__(self, loop: Loop, handshakes: Handshakes, owner: LobbyOwner, timeout_s: float) -> None:
        self._loop = loop
        self._handshakes = handshakes
        self._owner = owner
        self._timeout_s = timeout_s
        self._callers: dict[int, Caller] = {}
        """By descriptor, the first to come first."""
        self._epoll = select.epoll()
        self._timer: Timer | None = None
        self._open()

    def __len__(self) -> int:
        return len(self._callers)

    def _open(self, _: BaseException | None = None) -> None:
        """Also after a defect: it costs one connection its place, until its time is over, and nobody else's."""
        # Level-triggered: what was not looked at in this round is there in the next.
        self._loop.watch(self._epoll.fileno(), self._look, self._open, select.EPOLLIN)

    def close(self) -> None:
        for caller in tuple(self._callers.values()):
            self._leave(caller)
            caller.sock.close()
        self._loop.forget(self._epoll.fileno())
        self._epoll.close()

    def enter(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """Take a connection in; another may be given up for it."""
        self._enter(Caller(self, sock, peer, local), b"", 0.0)

    def _enter(self, caller: Caller, said: bytes, been_s: float) -> None:
        fd = caller.sock.fileno()
        caller.said = said
        self._handshakes.callers.begin(caller, caller.peer.ip)
        caller.since_s = self._loop.now() - been_s
        self._callers[fd] = caller
        if self._timer is None:
            self._timer = self._loop.later(self._timeout_s, self._on_time)
        # Most have said it all by now, and need not be watched.
        if not self._judge(caller, False):
            caller.is_watched = True
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)

    @property
    def callers(self) -> tuple[Caller, ...]:
        return tuple(self._callers.values())

    def hand_on(self, caller: Caller) -> bool:
        """Another process hears it out; whether it is still here."""
        return self._leave(caller)

    def resume(
        self, sock: socket.socket, peer: SocketAddress, local: SocketAddress, said: bytes, been_s: float
    ) -> None:
        """Go on with one that another process has heard so much of, and had for so long."""
        self._enter(Caller(self, sock, peer, local), said, been_s)
        # Who came first comes first, wherever that was: `_on_time` goes by it.
        self._callers = dict(sorted(self._callers.items(), key=lambda item: item[1].since_s))
        if self._timer is not None:
            self._timer.cancel()
            self._on_time()

    def close_pod(self, addresses: frozenset[IP]) -> None:
        for caller in [each for each in self._callers.values() if each.local.ip in addresses]:
            self._leave(caller)
            close(caller.sock, reset=True)

    def turn_away(self, caller: Caller, fault: Fault, detail: str) -> None:
        if self._leave(caller):
            if fault not in GIVEN_UP:
                self._swallow(caller)
            close(caller.sock, reset=fault in GIVEN_UP)
            self._handshakes.count_failure()
            self._owner.turned_away(caller, fault, detail)

    def admit(self, caller: Caller) -> bool:
        """It is the caller's turn; whether it is still there."""
        if not self._leave(caller):
            return False
        self._owner.called(caller, caller.since_s + self._timeout_s - self._loop.now())
        return True

    def _leave(self, caller: Caller) -> bool:
        fd = caller.sock.fileno()
        if self._callers.get(fd) is not caller:
            return False
        del self._callers[fd]
        if caller.is_watched:
            self._epoll.unregister(fd)
        self._handshakes.callers.end(caller)
        return True

    def _look(self, mask: int) -> None:
        end_s = self._loop.now() + SLICE_S
        left = LOOKS
        while left > 0 and (ready := self._epoll.poll(0, most := min(left, 16))):
            left -= len(ready)
            for fd, events in ready:
                caller = self._callers.get(fd)
                if caller is not None:
                    self._judge(caller, bool(events & ENDED))
            if len(ready) < most or self._loop.now() >= end_s:
                return

    def _judge(self, caller: Caller, has_ended: bool) -> bool:
        """Whether it has said all of a hello by now, or what can be none."""
        try:
            said = caller.sock.recv(HEADER_BYTES + MAX_CIPHER_BYTES - len(caller.said))
        except BlockingIOError:
            return False
        except OSError as error:
            self.turn_away(caller, Fault.CLOSED, f"TLS handshake: {os.strerror(error.errno or 0)}")
            return True
        has_ended = has_ended or not said
        said = caller.said = caller.said + said
        size = len(said)
        if size and (said[0] != _HANDSHAKE or (size > 1 and said[1] != _MAJOR_VERSION)):
            text = f"the peer does not speak TLS here; its first bytes are {said[:16]!r}"
            self.turn_away(caller, Fault.NOT_TLS, text)
            return True
        if size > HEADER_BYTES:
            whole = HEADER_BYTES + (said[3] << 8 | said[4])
            if said[HEADER_BYTES] != _CLIENT_HELLO or whole > HEADER_BYTES + MAX_CIPHER_BYTES:
                self.turn_away(
                    caller, Fault.PROTOCOL, "the peer's handshake does not begin with a ClientHello"
                )
                return True
            if size >= whole:
                if caller.is_watched:
                    caller.is_watched = False
                    self._epoll.unregister(caller.sock.fileno())
                self._handshakes.ask_first(caller, caller.peer.ip, caller.step)
                return True
        if has_ended:
            self.turn_away(caller, Fault.CLOSED, "TLS handshake: the peer closed the connection")
        return has_ended

    def _swallow(self, caller: Caller) -> None:
        """What it goes on to say would turn an end into a reset. More than a few words of it may."""
        try:
            caller.sock.recv_into(self._loop.buffers.received)
        except OSError:
            pass  # nothing is there, or it has gone

    def _on_time(self) -> None:
        """The oldest has been here for as long as one may."""
        self._timer = None
        latest_s = self._loop.now() - self._timeout_s
        for caller in tuple(self._callers.values()):
            if caller.since_s > latest_s:
                self._timer = self._loop.later(caller.since_s - latest_s, self._on_time)
                return
            self.turn_away(caller, Fault.TIMEOUT, "the TLS handshake was not done in time")
