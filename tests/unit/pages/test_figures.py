"""What operators watch, over the real judgement of health with parts under the test's hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from agent.defects import DEFECT
from agent.identity.keeper import Held, State
from agent.identity.schedule import Priority
from agent.model.identity import Identity
from agent.pages.figures import OTHER, TOPICS, AgentFigures
from agent.pages.health import AgentHealth
from agent.proof.findings import Finding, Link
from agent.proof.prover import Prover
from agent.rpc.xds_client import Phase, XdsStatus
from agent.telemetry.metrics import Figures
from agent.watch.openings import Openings

WEB, DB = (Identity("cluster.local", "apps", name) for name in ("web", "db"))


def held(identity: Identity, not_after: float | None) -> Held:
    state = State.AVAILABLE if not_after else State.UNAVAILABLE
    return Held(identity, state, Priority.WARMUP, 0.0, 0, "" if not_after else "no CA", 0.0, not_after)


class World:
    """A well agent."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.findings: list[Finding] = []
        self.prover = Prover({"test": self._check}, wall=lambda: self.now_s, clock=lambda: self.now_s)
        self.mesh = SimpleNamespace(problem="")
        self.xds = SimpleNamespace(status=XdsStatus(Phase.CONNECTED, 900.0, is_synced=True))
        self.held = [held(WEB, 5000.0)]
        self.links = [object(), object()]
        captures = SimpleNamespace(troubles=(), waiting=(), pods={}, wishes={}, unrecognised=())
        self.crew: Any = SimpleNamespace(links=self.links, retiring=(), restarts=0)
        health = AgentHealth(
            captures=captures,  # type: ignore[arg-type]
            xds=self.xds,  # type: ignore[arg-type]
            mesh=self.mesh,  # type: ignore[arg-type]
            reports=SimpleNamespace(error=""),  # type: ignore[arg-type]
            manifests=SimpleNamespace(findings=(), defect=""),  # type: ignore[arg-type]
            keeper=SimpleNamespace(held=lambda: self.held),  # type: ignore[arg-type]
            crew=self.crew,
            workers_wanted=2,
            sources=(),
            counters=SimpleNamespace(problem="", drops_per_s=0.0, openings=Openings(Figures())),  # type: ignore[arg-type]
            prover=self.prover,
            is_serving=lambda: True,
            wall=lambda: self.now_s,
        )
        self.figures = Figures()
        self.figures.ask(AgentFigures(health))
        self.prove()

    async def _check(self) -> list[Finding]:
        return self.findings

    def prove(self, *findings: Finding) -> None:
        self.findings = list(findings)
        asyncio.run(self.prover.prove())

    def read(self) -> dict[tuple[str, ...], float]:
        return {(name, *labels): value for name, labels, value in self.figures.items()}

    def topics(self) -> dict[str, float]:
        """Those with a reason, each with how many."""
        rows = {
            key[1]: value for key, value in self.read().items() if key[0] == "ztun_agent_degraded_reasons"
        }
        assert list(rows) == list(TOPICS), "a topic is there before its trouble"
        return {topic: count for topic, count in rows.items() if count}


def test_a_well_agent() -> None:
    world = World()
    figures = world.read()
    assert figures["ztun_agent_ready",] == 1 and world.topics() == {}
    assert figures["ztun_certificate_expiry_timestamp_seconds", str(WEB)] == 5000.0
    assert [figures["ztun_certificates", s] for s in ("available", "unavailable", "initializing")] == [
        1,
        0,
        0,
    ]
    assert (figures["ztun_xds_connected",], figures["ztun_xds_synced",]) == (1, 1)
    assert figures["ztun_xds_connected_since_timestamp_seconds",] == 900.0
    assert [figures["ztun_workers", s] for s in ("alive", "wanted")] == [2, 2]
    assert figures["ztun_worker_restarts",] == 0 and figures["ztun_proof_age_seconds",] == 0


def test_each_trouble_is_counted_by_its_topic() -> None:
    world = World()
    world.prove(
        Finding(Link.LISTENER, "", "nobody accepts"),
        Finding(Link.PEER, "apps/web", "all handshakes fail"),
        Finding(Link.INTERFACE, "apps/web", "its veth is gone"),
    )
    world.links.pop()
    world.crew.restarts = 3
    world.held.append(held(DB, None))
    world.xds.status = XdsStatus(Phase.CONNECTING, is_synced=True)
    world.now_s += 1.5
    figures = world.read()
    assert figures["ztun_agent_ready",] == 0
    assert world.topics() == {"listener": 1, "interface": 1, "workers": 1, "certificates": 1, "xds": 1}
    broken = {key[1:]: value for key, value in figures.items() if key[0] == "ztun_pod_broken"}
    assert broken == {("apps", "web", "interface"): 1}
    assert (
        figures["ztun_xds_connected",] == 0 and ("ztun_xds_connected_since_timestamp_seconds",) not in figures
    )
    assert figures["ztun_workers", "alive"] == 1 and figures["ztun_worker_restarts",] == 3
    assert figures["ztun_certificates", "unavailable"] == 1
    assert ("ztun_certificate_expiry_timestamp_seconds", str(DB)) not in figures
    assert figures["ztun_proof_age_seconds",] == 1.5


def test_what_is_refused_by_a_defect_is_a_reason_until_it_is_not() -> None:
    world = World()
    good = world.xds.status
    world.xds.status = replace(good, refused={"u1": f"{DEFECT}: KeyError: 'x'", "u2": "99999 is not a port"})
    assert world.topics() == {OTHER: 1} and world.read()["ztun_agent_ready",] == 0
    world.xds.status = good
    assert not world.topics()


def test_that_everything_unknown_is_refused_is_a_reason() -> None:
    world = World()
    world.mesh.problem = "pods reach nothing that the mesh does not know"
    assert world.topics() == {OTHER: 1} and world.read()["ztun_agent_ready",] == 0


def test_what_is_mended_is_over() -> None:
    world = World()
    world.prove(Finding(Link.PEER, "apps/web", "all handshakes fail"))
    assert world.read()["ztun_agent_ready",] == 0
    world.prove()
    assert world.read()["ztun_agent_ready",] == 1 and world.topics() == {}
    assert not [key for key in world.read() if key[0] == "ztun_pod_broken"]
