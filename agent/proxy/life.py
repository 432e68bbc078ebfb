"""One connection's life: registered, counted, joined to its other end, relayed, ended; the same for every kind.

`Recorded` is what policy and pods can end, and what leaves metrics and a line. `Life` adds the way there: an
attempt to reach the other end, a refusal the client sees, the relay, and a client that leaves before there is
one. What kind of connection it is and how its client is told, subclasses say (`captured`, `outbound`, `inbound`,
`inbound_plain`). A life holds its parts and they hold it as their owner; at its end it lets go of them.
"""

from __future__ import annotations

import errno
import socket
from abc import abstractmethod
from typing import ClassVar, Protocol

from agent.model.address import IP, SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome, Refusal, Unknown
from agent.model.unit import State
from agent.net.loop import Loop
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from agent.net.sockets import was_destroyed
from agent.proxy.registry import WAITING, Live, Registry
from agent.proxy.report import Reporter, Tracked
from agent.proxy.seeker import Seeker, Wait
from agent.telemetry.past import Past
from agent.telemetry.record import Opened

Relay = PlainRelay | TunnelRelay
GAVE_UP = "the client gave up before it was connected"
LEFT = "the kernel closed its sockets: a pod of it left the mesh"


class Attempt(Protocol):
    """What may still connect: a dial, or a place in line for a tunnel."""

    def cancel(self) -> None:
        """Give up at once; nobody is called back."""


class Recorded:
    """In the registry and in the telemetry from `_record` to `conclude`."""

    __slots__ = ("_live", "_registry", "_reporter", "_tracked")

    def __init__(self, registry: Registry, reporter: Reporter) -> None:
        self._registry = registry
        self._reporter = reporter
        self._live: Live | None = None
        self._tracked: Tracked | None = None

    @abstractmethod
    def close(self, outcome: Outcome, detail: str) -> None:
        """End it now, whatever it is doing: policy changed, the pod left, or the agent stops."""

    def count(self, relay: Relay) -> None:
        """Its bytes are what this relay carries."""
        assert self._tracked is not None, "what is relayed was recorded"
        self._tracked.relay = relay
        if self._live is not None and self._live.seat is not None:
            self._live.seat.pace(relay)

    def seated(self) -> None:
        """A limit counts it from now on: what carries it already goes by that."""
        if self._tracked is not None and isinstance(self._tracked.relay, PlainRelay | TunnelRelay):
            self.count(self._tracked.relay)

    def conclude(self, outcome: Outcome, detail: str) -> None:
        self._unregister()
        if self._tracked is not None:
            self._tracked.finish(outcome, detail)

    def _unregister(self) -> None:
        if self._live is not None:
            self._registry.remove(self._live)
            if self._live.seat is not None:
                self._live.seat.leave()
            self._live = None  # it holds this object

    def _record(self, live: Live, opened: Opened) -> None:
        """Its request is known: count it. Who calls registers it next, before it is judged or dialled."""
        self._live = live
        self._tracked = self._reporter.opened(opened)

    @property
    def pod(self) -> IP:
        """Whose it is at this end."""
        assert self._live is not None, "asked while it is registered"
        return self._live.pod

    def hand_on(self) -> State:
        """What another process goes on with (`take_up`). Here it is neither registered nor counted any more."""
        assert self._live is not None and self._tracked is not None, "what is handed on was recorded"
        state: State = {"live": self._live.state(), "record": self._tracked.leave().state()}
        if self._live.seat is not None:
            self._live.seat.park()
            self._live.seat = None
        self._unregister()
        self._tracked = None
        return state

    def take_up(self, live: Live, past: Past) -> None:
        """Registered and counted here from now on. Who calls judges it next."""
        self._live = live
        self._tracked = self._reporter.resumed(past)
        self._registry.add(live)


class Life(Recorded):
    """One connection; see the module. `peer` is its client, `local` where the client's packets arrived."""

    __slots__ = ("_attempt", "_far_half", "_is_over", "_loop", "_relay", "_sought", "local", "peer")
    direction: ClassVar[Direction]

    def __init__(
        self, loop: Loop, registry: Registry, reporter: Reporter, peer: SocketAddress, local: SocketAddress
    ) -> None:
        super().__init__(registry, reporter)
        self._loop = loop
        self.peer = peer
        self.local = local
        self._attempt: Attempt | None = None
        self._far_half: Recorded | None = None
        """The record of the other end, where that is in this worker too."""
        self._relay: Relay | None = None
        self._is_over = False
        self._sought: Wait | None = None
        """For what the state lacks, if it has come to that."""

    def start(self) -> None:
        self._go_ahead(is_first=True)

    def again(self) -> None:
        """What it waited for is known by now, or that it is nowhere."""
        self._attempt = None
        self._unregister()
        self._go_ahead(is_first=False)

    def _go_ahead(self, *, is_first: bool) -> None:
        try:
            self._attempt = self._begin()
            if is_first:
                self._watch_client()
        except Refusal as refusal:
            self.refused(refusal)
        except Exception as error:
            self.refused(Refusal(Outcome.INTERNAL, f"{type(error).__name__}: {error}"))
            raise

    @abstractmethod
    def _begin(self) -> Attempt:
        """Find out where it goes, record it, and try to connect. Raises Refusal."""

    @abstractmethod
    def _watch_client(self) -> None:
        """Hear of it when the client leaves while the attempt is under way."""

    @abstractmethod
    def _join(self, sock: socket.socket) -> Relay:
        """The relay between the client and the other end, which has just accepted; not started."""

    @abstractmethod
    def _turn_away(self, outcome: Outcome) -> None:
        """Tell the client that nothing comes of it."""

    # -- from one process to another

    def withdraw(self) -> None:
        """Give up what is tried for it, without a word: elsewhere it begins anew."""
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        self._unregister()

    def part(self) -> None:
        """Another process has what this one was about: nothing that still comes means anything here."""
        self._is_over = True
        self._relay = self._attempt = self._far_half = None

    def built(
        self, *, relay: Relay | None = None, attempt: Attempt | None = None, far_half: Recorded | None = None
    ) -> None:
        """It was under way in another process: what it had there is here now. `go_on` is next."""
        self._relay = relay
        self._attempt = attempt
        self._far_half = far_half

    def go_on(self, ends: tuple[Outcome, str] | None) -> None:
        """It is registered and counted here: let it run, or end it as is said."""
        relay = self._relay
        if relay is not None:
            self.count(relay)
            if self._far_half is not None:
                self._far_half.count(relay)
        if ends is not None:
            self.close(*ends)
        elif relay is not None:
            self._set_off(relay)
        else:
            self._watch_client()

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def attempt(self) -> Attempt | None:
        return self._attempt

    @property
    def relay(self) -> Relay | None:
        return self._relay

    @property
    def far_half(self) -> Recorded | None:
        """The record of the other end, where that is in this worker too."""
        return self._far_half

    # -- answers of what it owns

    def connected(self, sock: socket.socket) -> None:
        """The dial's answer."""
        self._attempt = None
        self._carry(self._join(sock))

    def failed(self, target: SocketAddress, error: OSError) -> None:
        """The dial's other answer."""
        self._attempt = None
        self.refused(dial_refusal(error, target))

    def refused(self, refusal: Refusal) -> None:
        """Nothing comes of it, for this reason."""
        if self._is_over:
            return
        self._turn_away(refusal.outcome)
        if self._tracked is None:
            self._reporter.refused(
                self.direction, self.peer, self.local, refusal.outcome, self._in_words(refusal)
            )
        self._end(refusal.outcome, refusal.detail)

    def finished(self, relay: Relay) -> None:
        """The relay's answer: both directions have ended."""
        self._end(relay.outcome, relay.error)

    def close(self, outcome: Outcome, detail: str) -> None:
        if self._relay is not None:
            self._relay.abort(outcome, detail)
        else:
            self.refused(Refusal(outcome, detail))

    # -- steps

    def _seek(self, seeker: Seeker, unknown: Unknown) -> Attempt:
        """Wait until the state has what it lacks; then `_begin` comes again. Raises Refusal."""
        self._sought = seeker.seek(unknown, self.peer.ip, self, self._sought)
        # Who waits is a connection of its pod like others: a pod that leaves and a deadline end it, and it is listed.
        self._live = Live(self.direction, self.peer.ip, self.peer, self.local, self.local, WAITING, self)
        self._registry.add(self._live)
        return self._sought

    def _carry(self, relay: Relay) -> None:
        self._relay = relay
        self.count(relay)
        if self._far_half is not None:
            self._far_half.count(relay)
        self._set_off(relay)

    def _set_off(self, relay: Relay) -> None:
        try:
            relay.start()
        except Exception as error:
            relay.abort(Outcome.INTERNAL, f"{type(error).__name__}: {error}")
            raise

    def _in_words(self, refusal: Refusal) -> str:
        return refusal.detail

    def _end(self, outcome: Outcome, detail: str) -> None:
        self._is_over = True
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        self._sought = None
        if self._far_half is not None:
            self._far_half.conclude(outcome, detail)
            self._far_half = None  # it holds this object
        self.conclude(outcome, detail)


def client_refusal(error: int) -> Refusal:
    """What a broken connection of a client means that was not connected yet; `error` is an errno."""
    if was_destroyed(error):
        return Refusal(Outcome.POD_REMOVED, LEFT)
    return Refusal(Outcome.RESET, GAVE_UP)


def dial_refusal(error: OSError, target: SocketAddress, *, is_hbone: bool = False) -> Refusal:
    """What a failed connect means for the connection that wanted it."""
    if isinstance(error, TimeoutError):
        outcome = Outcome.HBONE_TIMEOUT if is_hbone else Outcome.CONNECT_TIMEOUT
        return Refusal(outcome, f"connect to {target}: timed out; {outcome.hint}")
    if was_destroyed(error.errno or 0):
        return Refusal(Outcome.POD_REMOVED, f"connect to {target}: {LEFT}")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Refusal(Outcome.OVERLOADED, f"connect to {target}: {error.strerror}")
    return Refusal(Outcome.CONNECT_FAILED, f"connect to {target}: {error.strerror or error}")
