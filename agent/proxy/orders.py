"""What the control process tells this worker, carried out: state, pods, certificates, listeners, drain.

A worker outlives the control process. When the channel ends it goes on with what it has; the next control
process connects, hears which listeners it serves, and sends the full state anew.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import starmap
from typing import NamedTuple, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from agent import channel
from agent.channel import Message
from agent.channel_socket import Channel
from agent.identity.credentials import Credentials
from agent.identity.revocations import RevocationList
from agent.log_force import put_in_force
from agent.log_levels import Levels
from agent.model.address import parse_ip
from agent.model.identity import Identity
from agent.model.policy import Authorization, RefusedPolicy, Scope
from agent.model.refused_addresses import RefusedAddresses
from agent.model.service import Service
from agent.model.steps import Steps, each
from agent.model.workload import Workload
from agent.net.loop import Timer
from agent.proxy.dataplane import DataPlane
from agent.proxy.live_rows import connection_row, tunnel_row
from agent.proxy.pods import LocalPod, departed, from_message
from agent.proxy.serving import Serving
from agent.state.apply import Batch, full_addresses, full_authorizations
from agent.wire.xds_decode import decode_address, decode_authorization
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """What one message of a change has brought: names and resources."""

    revision: int
    updates: Sequence[tuple[str, bytes]]


class HasHands(Protocol):
    """Gives to another worker what is live here, and takes (`agent.handover`)."""

    @property
    def formats(self) -> Sequence[int]: ...

    def give(
        self, fds: Sequence[int], patience_s: float, drain_s: float, reply: Callable[[Message], None]
    ) -> None: ...

    def take(self, fds: Sequence[int]) -> str:
        """Why it does not, if so."""

    def stop(self, reason: str) -> None:
        """Neither from now on."""


class Orders:
    """Handles messages of the channel; one per worker. `outputs`: descriptors of what it prints, and of its log.

    `drain_s`: how long it drains when nobody says so.
    """

    def __init__(
        self,
        plane: DataPlane,
        slot: int,
        version: str,
        drain: Callable[[float], None],
        hands: HasHands,
        drain_s: float,
        outputs: tuple[int, int] = (1, 2),
        log_levels: Levels | None = None,
    ) -> None:
        self._plane = plane
        self._hands = hands
        self._drain_s = drain_s
        self._slot = slot
        self._version = version
        self._drain = drain
        self._outputs = outputs
        self._log_levels = log_levels or Levels()
        plane.reporter.least_level = self._log_levels.access
        self._serving = Serving(plane)
        self._pods: tuple[LocalPod, ...] = ()
        self._arrived: list[Part] = []
        """Of a change whose last part has not come."""
        self._given_up: Timer | None = None
        """When this worker ends for want of a control process."""
        self._tells_changes = False
        """Who hears the figures remembers what was said."""

    def hello(self, to: Channel) -> None:
        """Introduce this worker to a control process, with the listeners it serves. It will say everything anew."""
        self.left_alone()
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None
        held = list(self._serving.listeners())
        served = [(owner, name) for owner, name, _ in held]
        fds = [sock.fileno() for _, _, sock in held]
        hello = channel.Hello(
            self._slot,
            os.getpid(),
            served,
            self._version,
            self._serving.is_over,
            channel.PROTOCOL,
            self._hands.formats,
        )
        to.send(hello, fds)

    def left_alone(self) -> None:
        """Let go of a change that had begun: it will not end. Nobody takes questions any more."""
        self._arrived = []
        self._plane.seeker.ask = None
        self._tells_changes = False
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
                    self._serving.serve(message.owner, message.names, fds)
                except channel.FdsLost as error:
                    log.warning("listeners of worker %d: %s; asking for them again", message.owner, error)
                    reply(channel.Unserved(message.owner))
            case channel.Release():
                self._serving.release(message.owner)
            case channel.Drain():
                self._hands.stop("this worker drains")
                self._drain(message.deadline_s)
            case channel.HandOver():
                self._hands.give(fds, message.patience_s, message.drain_s, reply)
            case channel.TakeOver():
                reply(channel.Answer(message.number, self._hands.take(fds)))
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
            case channel.TakesChanges():
                self._tells_changes = True
                self._plane.reporter.metrics.tell_anew()
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
            case channel.Unknown():
                self._pass_over(message, fds, reply)
            case _:
                raise channel.ChannelError(f"a worker does not take {type(message).__name__}")
        return None

    def _pass_over(
        self, message: channel.Unknown, fds: Sequence[int], reply: Callable[[Message], None]
    ) -> None:
        """What another build means by it this one cannot know; where somebody is to be cut by it, this worker ends."""
        for fd in fds:
            os.close(fd)
        log.warning("the agent says %s, which this build does not know", message.kind)
        reply(channel.NotKnown(message.kind, message.binds))
        if message.binds:
            self._drain(self._drain_s)

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
        outbound = [(link, "outbound", key.source, key.target) for key, link in self._plane.pool.links]
        inbound = [(each.link, "inbound", each.identity, each.peer) for each in self._plane.inbound.links]
        return [
            tunnel_row(link, link.secured, direction, identity, at)
            for link, direction, identity, at in (*outbound, *inbound)
            if link.secured is not None
        ]

    def _connections(self) -> Iterator[dict[str, object]]:
        return (connection_row(live, self._plane.pods.at(live.pod)) for live in self._plane.registry)

    def stats(self) -> channel.Stats:
        """What is told of it counts as heard, where changes are told."""
        self._plane.reporter.count_bytes()
        metrics = self._plane.reporter.metrics
        return channel.Stats(
            metrics.changes() if self._tells_changes else metrics.snapshot(),
            len(self._plane.registry),
            pods=self._plane.tallies.rows(),
            strangers=self._plane.tallies.strangers(),
        )

    def stop_accepting(self) -> None:
        """For good: this worker drains. It carries out every other order as before."""
        self._serving.stop_accepting()

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
            addresses, unusable = decoded(arrived), RefusedAddresses.of(last.unusable)
            if last.full:
                names: set[str] = set()
                yield from each(arrived, lambda part: names.update(name for name, _ in part.updates))
                full = yield from full_addresses(snapshot, addresses, names)
                return replace(full, refused_addresses=unusable)
            return Batch(addresses, tuple(last.removed), refused_addresses=unusable)
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
