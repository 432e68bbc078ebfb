"""The listeners that this worker serves, by owner: it accepts on them, reads their held SYNs, answers their DNS."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from itertools import starmap

from agent import channel
from agent.fd_limit import accept_ceiling, with_reserve
from agent.model.counted import counted
from agent.model.listener import DNS, HBONE, OUTBOUND, PLAINTEXT
from agent.net.accept import Acceptor
from agent.net.member_table import MemberTable
from agent.net.syn_ring import SynRing
from agent.proxy.dataplane import DataPlane
from agent.wire.held_syn import FROM_POD, TO_POD

log = logging.getLogger(__name__)

COMPLAIN_EVERY_S = 10.0
HOOKS = {OUTBOUND.name: FROM_POD, PLAINTEXT.name: TO_POD}
"""Where SYNs are held for a listener."""


class Serving:
    """What is accepted on for a data plane, until `stop_accepting`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        # For each owner its listeners by name, and what accepts on them.
        self._owners: dict[int, dict[str, socket.socket]] = {}
        self._acceptors: dict[int, tuple[Acceptor, ...]] = {}
        self._handlers = {row.name: plane.accepted(row) for row in (OUTBOUND, HBONE, PLAINTEXT)}
        self._complain_at_s = 0.0
        self.is_over = False
        """This worker drains."""

    def listeners(self) -> Iterator[tuple[int, str, socket.socket]]:
        """Those that are served: owner, name, socket."""
        for owner, socks in self._owners.items():
            for name, sock in socks.items():
                yield owner, name, sock

    def stop_accepting(self) -> None:
        """For good."""
        self.is_over = True
        for owner in self._owners:
            self._plane.share.leave(owner)
        for owner in tuple(self._owners):
            self.release(owner)

    def serve(self, owner: int, names: Sequence[str], given: Sequence[int]) -> None:
        """One fd for each name, this object's from now on. Raises ChannelError, FdsLost."""
        fds = dict(channel.with_fds(names, given))
        known = self._handlers.keys() | {channel.MEMBERS, DNS.name}
        if self._plane.held is not None:
            known |= {channel.RING}
        unknown = fds.keys() - known
        if unknown or self.is_over:
            # The control process holds them too, so the queue stays. An order may cross the end of this worker.
            for fd in fds.values():
                os.close(fd)
            if unknown:
                raise channel.ChannelError(f"this worker cannot serve {', '.join(sorted(unknown))}")
            return
        members, given_ring = fds.pop(channel.MEMBERS, None), fds.pop(channel.RING, None)
        # To map one takes further descriptors, and a worker that has none left is the one that is given more to serve.
        with with_reserve():
            table = None if members is None else MemberTable(members)
            ring = None if given_ring is None else SynRing(given_ring)
        self.release(owner)
        if table is not None:
            self._plane.inbound.handshakes.note_in(table)
        self._owners[owner] = socks = {name: socket.socket(fileno=fd) for name, fd in fds.items()}
        accepted = [(name, sock) for name, sock in socks.items() if name in self._handlers]
        self._acceptors[owner] = tuple(starmap(self._acceptor, accepted))
        if DNS.name in socks:
            self._plane.dns.serve(owner, socks[DNS.name])
        for acceptor in self._acceptors[owner]:
            acceptor.start()
        self._plane.share.take(owner)
        # Last: whoever answers for a connection must accept it.
        if ring is not None and self._plane.held is not None:
            by_name = zip((name for name, _ in accepted), self._acceptors[owner], strict=True)
            behind = {HOOKS[name]: acceptor for name, acceptor in by_name if name in HOOKS}
            self._plane.held.serve(owner, ring, behind)

    def release(self, owner: int) -> None:
        if self._plane.held is not None and owner in self._owners:
            # First: what waits is let in for whoever serves these listeners next.
            self._plane.held.release(owner)
        self._plane.share.leave(owner)
        crossings = self._plane.crossings
        for acceptor in self._acceptors.pop(owner, ()):
            if crossings is not None and crossings.expected:
                acceptor.take_what_waits()
            acceptor.close()
        if crossings is not None:
            crossings.let_go(owner)
        socks = self._owners.pop(owner, {})
        # The door closes this one, when what it has read is answered.
        socks.pop(DNS.name, None)
        self._plane.dns.release(owner)
        for sock in socks.values():
            sock.close()

    def _acceptor(self, name: str, sock: socket.socket) -> Acceptor:
        return Acceptor(
            self._plane.loop,
            sock,
            self._handlers[name],
            ceiling=accept_ceiling,
            on_exhausted=self._exhausted,
        )

    def _exhausted(self) -> None:
        """Connections wait because descriptors are used up. Looked at ten times a second, said every ten."""
        self._plane.tallies.accept_pauses += 1
        now_s = self._plane.loop.now()
        if now_s >= self._complain_at_s:
            self._complain_at_s = now_s + COMPLAIN_EVERY_S
            log.warning(
                "nothing is accepted: the descriptors of this worker are used up (%s, %s); raise the limit"
                " (RLIMIT_NOFILE, LimitNOFILE=) or --workers",
                counted(len(self._plane.registry), "connection"),
                counted(len(self._plane.inbound.links), "HBONE connection"),
            )
