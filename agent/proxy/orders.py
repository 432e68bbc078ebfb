"""What the control process tells this worker, carried out: state, pods, certificates, listeners, drain.

A worker outlives the control process. When the channel ends it goes on with what it has; the next control
process connects, hears which listeners it serves, and sends the full state anew.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import starmap
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from agent import channel
from agent.channel import Message
from agent.channel_socket import Channel
from agent.fd_limit import accept_ceiling
from agent.identity.credentials import Credentials
from agent.identity.revocations import RevocationList
from agent.log_force import put_in_force
from agent.log_levels import Levels
from agent.model.address import parse_ip
from agent.model.identity import Identity
from agent.model.listener import DNS, HBONE, OUTBOUND, PLAINTEXT
from agent.model.policy import Authorization, RefusedPolicy, Scope
from agent.model.service import Service
from agent.model.steps import Steps, each
from agent.model.workload import Workload
from agent.net.accept import Acceptor
from agent.net.loop import Timer
from agent.net.member_table import MemberTable
from agent.net.syn_ring import SynRing
from agent.proxy.dataplane import DataPlane
from agent.proxy.live_rows import connection_row, tunnel_row
from agent.proxy.pods import LocalPod, departed, from_message
from agent.state.apply import Batch, full_addresses, full_authorizations
from agent.wire.xds_decode import decode_address, decode_authorization
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION

log = logging.getLogger(__name__)

COMPLAIN_EVERY_S = 10.0


class Part(NamedTuple):
    """What one message of a change has brought: names and resources."""

    revision: int
    updates: Sequence[tuple[str, bytes]]


class Orders:
    """Handles messages of the channel; one per worker. `outputs`: descriptors of what it prints, and of its log."""

    def __init__(
        self,
        plane: DataPlane,
        slot: int,
        version: str,
        drain: Callable[[float], None],
        outputs: tuple[int, int] = (1, 2),
        log_levels: Levels | None = None,
    ) -> None:
        self._plane = plane
        self._slot = slot
        self._version = version
        self._drain = drain
        self._outputs = outputs
        self._log_levels = log_levels or Levels()
        plane.reporter.least_level = self._log_levels.access
        # For each owner its listeners by name, and what accepts on them.
        self._owners: dict[int, dict[str, socket.socket]] = {}
        self._acceptors: dict[int, tuple[Acceptor, ...]] = {}
        self._handlers = {
            OUTBOUND.name: plane.accepted(OUTBOUND),
            HBONE.name: plane.accepted(HBONE),
            PLAINTEXT.name: plane.accepted(PLAINTEXT),
        }
        self._pods: tuple[LocalPod, ...] = ()
        self._arrived: list[Part] = []
        """Of a change whose last part has not come."""
        self._is_draining = False
        self._complain_at_s = 0.0
        self._given_up: Timer | None = None
        """When this worker ends for want of a control process."""

    def hello(self, to: Channel) -> None:
        """Introduce this worker to a control process, with the listeners it serves. It will say everything anew."""
        self.left_alone()
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None
        held = [(owner, name, sock) for owner, socks in self._owners.items() for name, sock in socks.items()]
        served = [(owner, name) for owner, name, _ in held]
        fds = [sock.fileno() for _, _, sock in held]
        hello = channel.Hello(self._slot, os.getpid(), served, self._version, self._is_draining)
        to.send(hello, fds)

    def left_alone(self) -> None:
        """Let go of a change that had begun: it will not end. Nobody takes questions any more."""
        self._arrived = []
        self._plane.seeker.ask = None
        gc.enable()

    def carry_out(
        self, message: Message, fds: Sequence[int], reply: Callable[[Message], None]
    ) -> Iterator[None] | None:
        """Carry out one order; what it answers goes to `reply`. A large one is only begun: the rest is the answer,
        and no other order may be given before its end."""
        match message:
            case channel.Resources():
                return self._apply(message, reply)
            case channel.Pods():
                self._replace_pods(from_message(message.pods))
            case channel.Secret():
                self._plane.secrets.put(credentials(message))
            case channel.ForgetSecret():
                self._plane.secrets.forget(Identity.parse(message.identity))
            case channel.Listeners():
                try:
                    self._serve(message.owner, channel.with_fds(message.names, fds))
                except channel.FdsLost as error:
                    log.warning("listeners of worker %d: %s; asking for them again", message.owner, error)
                    reply(channel.Unserved(message.owner))
            case channel.Release():
                self._release(message.owner)
            case channel.Drain():
                self._drain(message.deadline_s)
            case channel.GoOn():
                self._go_on(message.patience_s, message.drain_s)
                reply(channel.Answer(message.number, None))
            case channel.Output():
                for fd, target in zip(
                    fds, self._outputs, strict=False
                ):  # where fds were lost, the old ones stay
                    os.dup2(fd, target)
                    os.close(fd)
            case channel.ChoiceKey():
                self._plane.share.key = message.key
            case channel.HostNames():
                # Lists by now, as JSON has nothing else.
                self._plane.names.told([(row[0], row[1], row[2]) for row in message.names], message.gone)
            case channel.TakesQuestions():
                self._plane.seeker.ask = lambda names: reply(channel.Wanted(names))
            case channel.Answered():
                self._plane.seeker.answered(message.names)
            case channel.DnsClients():
                self._plane.dns.capture(map(parse_ip, message.addresses))
            case channel.Revoked():
                return self._plane.revoke([RevocationList(der, text.split()) for der, text in message.lists])
            case channel.LogLevels():
                self._log_by(Levels(message.overall, tuple((each[0], each[1]) for each in message.targets)))
            case channel.Ask():
                return self._answer(message, reply)
            case _:
                raise channel.ChannelError(f"a worker does not take {type(message).__name__}")
        return None

    def _go_on(self, patience_s: float, drain_s: float) -> None:
        """Nobody tells this worker of policy any more: it may serve by what it has for so long."""

        def give_up() -> None:
            log.error("no agent has come for %g s: this worker ends", patience_s)
            self._drain(drain_s)

        if self._given_up is not None:
            self._given_up.cancel()
        self._given_up = self._plane.loop.later(patience_s, give_up)

    def _log_by(self, levels: Levels) -> None:
        put_in_force(levels, self._log_levels)
        self._log_levels = levels
        self._plane.reporter.least_level = levels.access

    def _answer(self, question: channel.Ask, reply: Callable[[Message], None]) -> Iterator[None]:
        """In steps, each with its JSON: of 50,000 connections the whole takes half a second."""
        texts: list[str] = []
        rows = self._tunnels() if question.what == "tunnels" else self._connections()
        yield from each(rows, lambda row: texts.append(json.dumps(row)))
        reply(channel.Answer(question.number, f"[{','.join(texts)}]".encode()))

    def _tunnels(self) -> list[dict[str, object]]:
        outbound = [(link, "outbound", identity) for identity, link in self._plane.pool.links]
        inbound = [(entry.link, "inbound", entry.identity) for entry in self._plane.inbound.links]
        return [
            tunnel_row(link, link.secured, direction, identity)
            for link, direction, identity in (*outbound, *inbound)
            if link.secured is not None
        ]

    def _connections(self) -> Iterator[dict[str, object]]:
        return (connection_row(live, self._plane.pods.at(live.pod)) for live in self._plane.registry)

    def stats(self) -> channel.Stats:
        self._plane.reporter.count_bytes()
        return channel.Stats(
            self._plane.reporter.metrics.snapshot(),
            len(self._plane.registry),
            pods=self._plane.tallies.rows(),
        )

    def stop_accepting(self) -> None:
        """For good: this worker drains. It carries out every other order as before."""
        self._is_draining = True
        for owner in self._owners:
            self._plane.share.leave(owner)
        for owner in tuple(self._owners):
            self._release(owner)

    def _apply(self, part: channel.Resources, reply: Callable[[Message], None]) -> Steps[None]:
        """The parts of a change are collected, decoded, and take effect together with the last."""
        if part.type_url not in (ADDRESS, AUTHORIZATION):
            raise channel.ChannelError(f"unknown resource type {part.type_url}")
        arrived = self._arrived
        if arrived and arrived[0].revision != part.revision:
            raise channel.ChannelError(f"a change without its end, before revision {part.revision}")
        arrived.append(Part(part.revision, part.updates))
        if not part.is_last:
            # It would walk all that is held again and again while that grows, for a tenth of a second each time.
            gc.disable()
            return
        self._arrived = []
        batch = yield from self._batch(part, arrived)
        # The data plane ends what the new state does not allow before this returns.
        yield from self._plane.store.applying(batch)
        if not gc.isenabled():
            # State holds no cycles, and connections that end leave none: nothing that is there now needs it.
            gc.freeze()
            gc.enable()
        reply(channel.Applied(part.revision))

    def _batch(self, last: channel.Resources, arrived: list[Part]) -> Steps[Batch]:
        snapshot = self._plane.store.current
        if last.type_url == ADDRESS:
            addresses = decoded(arrived)
            if last.full:
                names: set[str] = set()
                yield from each(arrived, lambda part: names.update(name for name, _ in part.updates))
                return (yield from full_addresses(snapshot, addresses, names))
            return Batch(addresses=addresses, removed_addresses=tuple(last.removed))
        policies: list[tuple[str, Authorization]] = []
        for part in arrived:
            yield from each(part.updates, lambda update: policies.append(decoded_policy(*update)))
        refused = {name: RefusedPolicy(why, Scope(s), ns, dry) for name, why, s, ns, dry in last.refused}
        if last.full:
            return replace(full_authorizations(snapshot, policies), refused_authorizations=refused)
        return Batch(
            authorizations=tuple(policies),
            removed_authorizations=tuple(last.removed),
            refused_authorizations=refused,
        )

    def _replace_pods(self, pods: tuple[LocalPod, ...]) -> None:
        gone = departed(self._pods, pods)
        self._pods = pods
        self._plane.pods.replace(pods)
        if gone:
            self._plane.close_pod(gone)

    def _serve(self, owner: int, listeners: Iterable[tuple[str, int]]) -> None:
        fds = dict(listeners)
        known = self._handlers.keys() | {channel.MEMBERS, DNS.name}
        if self._plane.held is not None:
            known |= {channel.RING}
        unknown = fds.keys() - known
        if unknown or self._is_draining:
            # The control process holds them too, so the queue stays. An order may cross the end of this worker.
            for fd in fds.values():
                os.close(fd)
            if unknown:
                raise channel.ChannelError(f"this worker cannot serve {', '.join(sorted(unknown))}")
            return
        self._release(owner)
        if (members := fds.pop(channel.MEMBERS, None)) is not None:
            self._plane.inbound.handshakes.note_in(MemberTable(members))
        ring = fds.pop(channel.RING, None)
        self._owners[owner] = socks = {name: socket.socket(fileno=fd) for name, fd in fds.items()}
        self._acceptors[owner] = tuple(
            Acceptor(
                self._plane.loop,
                sock,
                self._handlers[name],
                ceiling=accept_ceiling(),
                on_exhausted=self._exhausted,
            )
            for name, sock in socks.items()
            if name in self._handlers
        )
        if DNS.name in socks:
            self._plane.dns.serve(owner, socks[DNS.name])
        for acceptor in self._acceptors[owner]:
            acceptor.start()
        self._plane.share.take(owner)
        # Last: whoever answers for a connection must accept it.
        if ring is not None and self._plane.held is not None:
            self._plane.held.serve(owner, SynRing(ring))

    def _exhausted(self) -> None:
        """Connections wait because descriptors are used up. Looked at ten times a second, said every ten."""
        self._plane.tallies.accept_pauses += 1
        now_s = self._plane.loop.now()
        if now_s >= self._complain_at_s:
            self._complain_at_s = now_s + COMPLAIN_EVERY_S
            log.warning(
                "nothing is accepted: the descriptors of this worker are used up (%d connections, %d HBONE"
                " connections); raise the limit (RLIMIT_NOFILE, LimitNOFILE=) or --workers",
                len(self._plane.registry),
                len(self._plane.inbound.links),
            )

    def _release(self, owner: int) -> None:
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


def decoded(arrived: list[Part]) -> Iterator[Workload | Service]:
    """The addresses of a change. Each part is let go of when it is done with."""
    arrived.reverse()
    while arrived:
        yield from starmap(decode_address, arrived.pop().updates)


def decoded_policy(name: str, raw: bytes) -> tuple[str, Authorization]:
    return name, decode_authorization(name, raw)


def credentials(message: channel.Secret) -> Credentials:
    """Credentials from what control sent (DER)."""
    key = load_der_private_key(message.key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise channel.ChannelError(f"the key of {message.identity} is not an EC key")
    return Credentials(
        Identity.parse(message.identity),
        key,
        tuple(x509.load_der_x509_certificate(der) for der in message.chain),
        tuple(x509.load_der_x509_certificate(der) for der in message.roots),
        ends=message.ends,
    )
