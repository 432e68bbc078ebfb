"""What workers are told: a newcomer everything there is, the others each change."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from agent import channel
from agent.briefing import Briefing
from agent.dns.host_names import LooksUp
from agent.dns.resolver import look_up
from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.wish import PodKey
from agent.identity.keeper import Keeper
from agent.mesh_state import MeshState
from agent.model.address import parse_ip
from agent.model.identity import Identity
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION
from redirect.layout import Flag
from redirect.place import Place
from tests.support.xds import PATIENCE_S, MeshCA

WEB, OLD = Identity("cluster.local", "apps", "web"), Identity("cluster.local", "apps", "old")
PLACE = Place(7, "veth7", (parse_ip("10.0.0.1"),), mac=bytes(6), hops=())
POD = EnrolledPod(PodKey("apps", "web-0"), "web", "cluster.local", PLACE)
CA = MeshCA()


class Control:
    """The parts of a control process that workers hear from, and what they were told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.ca = CA
        self.new: list[Any] = []
        """What only workers hear that know when a certificate ends before its leaf."""
        self.keeper = Keeper(
            self,
            clock=time.time,
            rng=Random(1),
            on_credentials=lambda _, issued: self.briefing.issued(self.new.append, issued),
            on_forget=lambda identity: self.briefing.forgotten(identity),
        )
        mesh = MeshState(Store(Snapshot(node="n1")), self.told.append, self._applied)
        self.names = LooksUp(look_up, self.told.append, time.monotonic)
        self.briefing = Briefing(mesh, self.keeper, self.names, self.told.append)

    async def _applied(self, revision: int) -> None: ...

    async def sign(self, identity: Identity, csr_pem: str) -> tuple[str, ...]:
        """As the CA."""
        now = time.time()
        return tuple(self.ca.certify(csr_pem, str(identity), not_before=now, not_after=now + 3600))

    async def use(self, *identities: Identity) -> None:
        """Have certificates for these and no others."""
        self.keeper.set_in_use(identities)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.keeper.run())
            for identity in identities:
                await self.keeper.obtain(identity)
            running.cancel()

    def newcomer(self) -> list[Any]:
        """What a worker hears that has just come."""
        heard: list[Any] = []
        self.briefing.brief(heard.append)
        return heard


def test_a_newcomer_hears_policies_then_workloads_then_pods_then_secrets() -> None:
    control = Control()
    asyncio.run(control.use(WEB))
    control.briefing.enrolled([POD])
    changes, policies, addresses, pods, secret = control.newcomer()
    assert changes == channel.TakesChanges(), "first: figures that were told whole need not be told so again"
    assert [(m.type_url, m.full) for m in (policies, addresses)] == [(AUTHORIZATION, True), (ADDRESS, True)]
    assert pods == channel.Pods([("apps", "web-0", "web", ["10.0.0.1"])])
    assert secret.identity == str(WEB)


def test_each_change_is_told_to_all() -> None:
    control = Control()
    asyncio.run(control.use(WEB, OLD))
    asyncio.run(control.use(WEB))
    control.briefing.enrolled([POD])
    control.briefing.enrolled([])
    secrets = sorted(m.identity for m in control.told if isinstance(m, channel.Secret))
    assert secrets == sorted(map(str, (WEB, OLD)))
    assert channel.ForgetSecret(str(OLD)) in control.told
    assert control.told[-1] == channel.Pods([])


def test_the_end_of_an_authority_is_told_to_workers_that_know_of_such() -> None:
    """One of before protocol 1 would take the frame for a broken one; it hears that the certificate is forgotten."""
    control = Control()
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)

    async def both() -> None:
        await control.use(OLD)
        assert not control.new, "it ends with its leaf"
        control.ca = MeshCA(not_after=end)
        await control.use(OLD, WEB)

    asyncio.run(both())
    [secret] = control.new
    assert (secret.identity, secret.ends) == (str(WEB), end.timestamp())
    assert secret in control.newcomer()
    other: list[Any] = []
    control.briefing.brief(other.append, is_new=False)
    for heard in (control.told, other):
        assert [m.ends for m in heard if isinstance(m, channel.Secret) and m.identity == str(WEB)] == [None]


def test_whose_dns_is_captured_is_told() -> None:
    control = Control()

    def told() -> list[Any]:
        return [message for message in control.told if isinstance(message, channel.DnsClients)]

    control.briefing.enrolled([POD])
    assert not told(), "nobody has to know where there is none"
    captured = replace(POD, place=replace(PLACE, treatment=Flag.DNS))
    control.briefing.enrolled([captured])
    assert told() == [channel.DnsClients(["10.0.0.1"])]
    assert told()[0] in control.newcomer()
    control.briefing.enrolled([POD])
    assert told()[1] == channel.DnsClients([])


def test_a_newcomer_hears_nothing_of_what_was_forgotten() -> None:
    control = Control()
    asyncio.run(control.use(OLD))
    asyncio.run(control.use())
    assert not [message for message in control.newcomer() if isinstance(message, channel.Secret)]


def test_a_newcomer_logs_by_what_holds_now() -> None:
    control = Control()
    levels = control.briefing.log_levels = channel.LogLevels("warn", [("access", "off")])
    assert levels in control.newcomer()
