"""The data plane of one worker: every part built once and joined, for the worker process and for tests.

What touches the world outside comes in: loop, sockets of both sides, clocks, randomness, where lines go. A state
change ends live connections here, so nobody who owns a data plane can forget it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.config import Config
from agent.identity.faults import Fault
from agent.identity.key_exchange import POST_QUANTUM
from agent.identity.revocations import RevocationList, Revocations
from agent.model.address import IP
from agent.model.connection import Direction
from agent.model.counted import counted
from agent.model.listener import HBONE, OUTBOUND, Listener
from agent.model.outcome import Outcome
from agent.model.steps import each
from agent.net.dial import Dialler
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.net.tunnel_link import TunnelLink
from agent.proxy.arrivals import Arrivals, OnAccept
from agent.proxy.connector import HboneConnector
from agent.proxy.crossing import Crossings
from agent.proxy.delivery import Delivery, ProxyAddresses
from agent.proxy.dns_door import DnsDoor, Resolver
from agent.proxy.far_network import FarNetworks
from agent.proxy.gate import Frames, Gate, nobodys
from agent.proxy.held_rings import HeldRings, nothing_held
from agent.proxy.inbound import Inbound
from agent.proxy.inbound_plain import InboundPlain, PlainConnection
from agent.proxy.life import Recorded
from agent.proxy.limiter import Limiter
from agent.proxy.live_rows import link_samples
from agent.proxy.local import LocalPath
from agent.proxy.outbound import Outbound, OutboundConnection
from agent.proxy.own_share import OwnShare
from agent.proxy.pods import LocalPods
from agent.proxy.pool import Pool
from agent.proxy.registry import Live, Registry
from agent.proxy.report import Reporter
from agent.proxy.secrets import Secrets
from agent.proxy.seeker import Seeker
from agent.proxy.tallies import End, Tallies
from agent.state.absent import Absent
from agent.state.apply import Changes
from agent.state.host_names import NamedHosts
from agent.state.resolve import Options
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.telemetry import families
from agent.telemetry.metrics import Metrics, Sample
from agent.wire.h2_events import CLIENT_LIMITS, SERVER_LIMITS, Limits
from agent.wire.held_syn import FROM_POD, TO_POD

if TYPE_CHECKING:
    from agent.proxy.socks5 import Socks5

log = logging.getLogger(__name__)


class Senders(NamedTuple):
    """Of frames, out of each private namespace."""

    pod: Frames
    net: Frames


@dataclass(frozen=True, slots=True)
class Outside:
    """What a data plane meets outside itself. `pod_side` can only reach pods, `net_side` only the network."""

    loop: Loop
    pod_side: SideSockets
    net_side: SideSockets
    proxy: ProxyAddresses
    metrics: Metrics
    write_line: Callable[[str], None]
    """Takes finished lines of the access log."""
    rng: random.Random
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    """Unix seconds."""
    frames: Senders | None = None
    """Where SYNs may be held."""
    limit_table: Path | None = None
    """Where all workers of the node count what clients have; None: this one is alone."""
    may_load: Callable[[], object] = lambda: None
    """Before code is loaded late. Raises OSError: it is of another build by now."""


ANSWER_MARGIN_S = 10.0
"""How much longer than a dial and a handshake a peer may take to answer a CONNECT."""


class DataPlane:
    """The parts, by name. It accepts what the three listeners' handlers are given, and owns no listener itself."""

    def __init__(self, config: Config, outside: Outside) -> None:
        loop, rng = outside.loop, outside.rng
        self.loop = loop
        loop.backlogs.limit_bytes = config.unread_bytes
        self.store = Store(Snapshot(node=config.node))
        self.pods = LocalPods()
        own_addresses = frozenset({outside.proxy.v4, outside.proxy.v6})
        self.tallies = Tallies()
        self.arrivals = Arrivals(own_addresses, self.tallies)
        self.registry = Registry(config.max_connections, enforces_waypoint=config.enforce_waypoint)
        self.secrets = Secrets(outside.wall, POST_QUANTUM if config.compliance_policy == "pqc" else "")
        self.revocations = Revocations() if config.crl_path else None
        self.reporter = Reporter(
            outside.metrics,
            outside.write_line,
            outside.clock,
            outside.wall,
            as_json=config.log_format == "json",
        )
        self.names = NamedHosts()
        absent = Absent(loop.now)
        self.seeker = Seeker(loop, absent, is_partial=config.on_demand)
        options = Options(
            names=self.names,
            network=config.network,
            mesh_cidrs=config.mesh_cidrs,
            refuse_unknown=config.unknown_destination == "refuse",
            own_addresses=own_addresses,
            is_partial=config.on_demand,
            absent=absent,
        )

        def random_port() -> int:
            return 1024 + int(rng.random() * (65536 - 1024))

        to_pods = Dialler(loop, outside.pod_side, random_port, config.connect_timeout_s)
        to_network = Dialler(loop, outside.net_side, random_port, config.connect_timeout_s)
        connector = self.connector = HboneConnector(
            to_network,
            self.secrets,
            self.revocations,
            limits(config, CLIENT_LIMITS),
            handshake_timeout_s=config.handshake_timeout_s,
            streams_limit=config.pool_max_streams,
        )
        self.pool = Pool(
            loop,
            connector,
            self.tallies,
            streams_limit=config.pool_max_streams,
            idle_s=config.pool_idle_s,
            # The peer dials too before it answers, and behind a gateway there is one more handshake.
            answer_s=config.connect_timeout_s + config.handshake_timeout_s + ANSWER_MARGIN_S,
        )
        self.far_networks = FarNetworks(self.pool, connector, config.network)
        self.limiter = Limiter(loop, self.store, self.registry, outside.metrics.figures, outside.limit_table)
        delivery = self.delivery = Delivery(
            loop, self.store, self.registry, to_pods, outside.proxy, self.limiter
        )
        self.share = OwnShare(config.worker_count, loop.now)
        crossings = None
        if config.local_path == "host":
            crossings = Crossings(loop, outside.net_side, self.share, random_port, config.connect_timeout_s)
        self.crossings = crossings
        self.local_path = LocalPath(delivery, self.pods, self.reporter, options, crossings)
        self.inbound = Inbound(
            delivery,
            self.pods,
            self.secrets,
            self.revocations,
            self.reporter,
            self.tallies,
            options,
            limits(config, SERVER_LIMITS),
            self.seeker,
            handshake_timeout_s=config.handshake_timeout_s,
            links_limit=config.max_connections,
        )
        self.inbound_plain = InboundPlain(
            delivery, self.pods, self.reporter, options, config.max_connections, crossings
        )
        self.outbound = Outbound(
            loop,
            self.store,
            self.pods,
            self.registry,
            self.pool,
            self.far_networks,
            self.local_path if config.local_path != "hbone" else None,
            to_network,
            self.reporter,
            options,
            rng,
            self.seeker,
        )
        self.dns = DnsDoor(
            loop,
            outside.may_load,
            lambda: self._dns_parts(config, to_network, outside.net_side, own_addresses, rng),
        )
        if config.dns_capture:
            self.dns.answers()
        self.socks5: Socks5 | None = None
        if config.socks5:
            self.socks5 = self._socks5(own_addresses)
        self.held = self._holding(outside.frames) if outside.frames is not None else None
        self.store.subscribe(self._reevaluate)
        self.store.subscribe(self.seeker.changed)
        outside.metrics.figures.ask(self.samples)

    def accepted(self, row: Listener) -> OnAccept:
        """The handler of a listener's connections, behind the count of what arrives."""
        direction = Direction.OUTBOUND if row is OUTBOUND else Direction.INBOUND
        if self.held is not None and row is not HBONE:
            return self.held.gate(direction).accepted
        if row is OUTBOUND:
            return self._captured()
        handler = self.inbound.accepted if row is HBONE else self.inbound_plain.accepted
        return self.arrivals.door(direction, handler).arrived

    def _captured(self) -> OnAccept:
        """The handler of connections that pods open, once they are accepted."""
        handler: OnAccept = self.outbound.accepted
        if self.socks5 is not None:
            handler = self.socks5.before(handler)
        door = self.arrivals.door(Direction.OUTBOUND, handler)
        self.dns.stand_before(door)
        return door.arrived

    def _holding(self, frames: Senders) -> HeldRings:
        outward = Gate(
            self.loop,
            Direction.OUTBOUND,
            frames.pod,
            partial(OutboundConnection, self.outbound),
            self._captured(),
            # There is nothing to wait for: what it reaches a client says later.
            self.socks5.is_asked if self.socks5 is not None else nobodys,
        )
        inward = Gate(
            self.loop,
            Direction.INBOUND,
            frames.net,
            partial(PlainConnection, self.inbound_plain),
            self.arrivals.door(Direction.INBOUND, self.inbound_plain.accepted).arrived,
            self.crossings.expects if self.crossings is not None else nobodys,
        )
        return HeldRings(self.loop, {FROM_POD: outward, TO_POD: inward}, self.tallies)

    def _dns_parts(
        self,
        config: Config,
        to_network: Dialler,
        net_side: SideSockets,
        own_addresses: frozenset[IP],
        rng: random.Random,
    ) -> Resolver:
        # Loaded here, with the first pod whose DNS is captured (where every pod's is: at the start): most workers
        # never have one.
        from agent.dns.mesh_names import MeshNames
        from agent.proxy.dns_parts import DnsParts
        from agent.proxy.dns_service import DnsService

        names = MeshNames(config.cluster_domain, config.dns_preferred_namespace)
        service = DnsService(
            self.loop, self.store, self.pods, names, to_network, net_side, own_addresses, rng
        )
        return DnsParts(service)

    def _socks5(self, own_addresses: frozenset[IP]) -> Socks5:
        # Loaded where it is wanted.
        from agent.dns.name_servers import name_servers
        from agent.proxy.dns_parts import DnsParts
        from agent.proxy.socks5 import Socks5

        parts = self.dns.answers()
        assert isinstance(parts, DnsParts), "what `_dns_parts` makes"
        return Socks5(self.outbound, parts.service, own_addresses, name_servers)

    def samples(self) -> Iterable[Sample]:
        """HBONE connections and tunnels open now, and the handshakes that failed so far."""
        yield from self.dns.samples()
        yield from self.held.samples() if self.held is not None else nothing_held()
        yield families.HANDSHAKES_OPEN, (), len(self.inbound.handshakes)
        yield families.ACCEPT_PAUSES, (), self.tallies.accept_pauses
        yield from self.reporter.samples()
        yield families.UNREAD_BYTES, (), self.loop.backlogs.total_bytes
        yield families.UNREAD_RESETS, (), self.loop.backlogs.cut
        inbound = [entry.link for entry in self.inbound.links]
        outbound = [link for _, link in self.pool.links]
        yield from self._revoked_samples()
        for end, links in ((End.CLIENT, outbound), (End.SERVER, inbound)):
            yield from link_samples(end.value, links)
            for fault in Fault:
                count = self.tallies.faults[end, fault]
                yield families.HANDSHAKE_FAILURES, (end.value, fault.value), count

    def say_why(self, reason: str, addresses: frozenset[IP] | None = None) -> None:
        """Tell the peers of all HBONE connections, or of those of a pod, why what they carry is reset next."""
        self.inbound.go_away(reason, addresses)
        self.pool.go_away(reason, addresses)

    def close_pod(self, addresses: frozenset[IP]) -> None:
        """End everything that a pod of these addresses has here: it left the mesh."""
        self.say_why("the pod left the mesh", addresses)
        self.registry.close_pod(addresses)
        self.pool.close_source(addresses)
        self.inbound.close_pod(addresses)
        self.tallies.forget(addresses)
        self.dns.forget()

    def revoke(self, lists: Sequence[RevocationList]) -> Iterator[None]:
        """Judge by these lists from now on, and end every connection whose peer is on one. In steps."""
        revocations = self.revocations
        if revocations is None:
            return  # nothing is known of the peers' chains: control does not send lists here
        yield from revocations.replace(lists)
        inbound = [entry.link for entry in self.inbound.links]
        outbound = [link for _, link in self.pool.links]
        yield from each((*inbound, *outbound, *self.far_networks.links), partial(end_revoked, revocations))

    def _revoked_samples(self) -> Iterable[Sample]:
        if self.revocations is not None:
            yield families.CRL_REJECTIONS, ("destination",), self.revocations.refused_clients
            yield families.CRL_REJECTIONS, ("source",), self.revocations.refused_servers

    def _reevaluate(self, snapshot: Snapshot, changes: Changes) -> Iterator[None]:
        closed = yield from self.registry.reevaluate(snapshot, changes)
        if closed:
            log.info("closed %s that current policy does not allow", counted(closed, "live connection"))
        yield from self.limiter.reevaluate(changes, seated)


def seated(live: Live) -> None:
    """A limit counts a connection that is open already."""
    if isinstance(live.owner, Recorded):
        live.owner.seated()


def end_revoked(revocations: Revocations, link: TunnelLink) -> None:
    """End a connection at once if its peer's certificate has been revoked since."""
    reason = revocations.refusal(link.secured.chain) if link.secured is not None else ""
    if reason:
        log.info("closing a live connection: %s", reason)
        revocations.count(is_client=link.is_server)
        link.abort(Outcome.CERTIFICATE_REVOKED, reason)


def limits(config: Config, of_role: Limits) -> Limits:
    """What a peer is allowed: the windows and frames of the configuration, the rest as the role has it."""
    return replace(
        of_role,
        stream_window_bytes=config.stream_window_bytes,
        connection_window_bytes=config.connection_window_bytes,
        frame_bytes=config.frame_bytes,
    )
