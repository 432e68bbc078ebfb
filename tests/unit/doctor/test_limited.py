"""What doctor says of limits: whether one more connection would be let in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent import config
from agent.doctor import limited
from agent.doctor.check import Verdict
from agent.doctor.flow import Flow, explain_flow
from agent.model.limits import ConnectionLimit, Limits
from agent.pages.explain import explained
from agent.state.host_names import NamedHosts
from tests.support import mesh
from tests.support.patient import site_at

SOURCE, DESTINATION = "10.0.0.1:40000", "10.0.0.2:8080"
WHO = "spiffe://cluster.local/ns/apps/sa/client"
NAME = "ConnectionLimit apps/web"
PEER = {
    "pod": "apps/client",
    "link": "peer",
    "reason": "every HBONE connection it needs fails (the last one: the peer is sa/evil, not sa/web)",
    "remedy": "look there",
}


def explanation(node: str = "n1") -> Any:
    limit = ConnectionLimit(NAME, Limits(connections=3, bytes_per_second=1000))
    client = mesh.workload("client", "10.0.0.1", service_account="client")
    server = mesh.workload("server", "10.0.0.2", node=node, limits=(limit,))
    return explained(
        mesh.snapshot(client, server),
        config.build({"node": "n1"}),
        mesh.at(SOURCE),
        mesh.at(DESTINATION),
        NamedHosts(),
    )


@pytest.mark.parametrize(
    ("count", "is_open", "verdict"),
    [(2, False, Verdict.OK), (3, False, Verdict.FAILED), (3, True, Verdict.OK)],
)
def test_a_flow_of_a_client_that_has_all_it_may_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int, is_open: bool, verdict: Verdict
) -> None:
    row = {"src": SOURCE, "original_dst": DESTINATION, "direction": "inbound"}
    answer = explanation()
    # Who dials is what the agent says it would prove to be.
    client = answer["policy"]["identity"]
    pages = {
        "/connections": {"connections": [row | {"protocol": "HBONE", "actual_dst": DESTINATION}] * is_open},
        "/status": {"proof": {"findings": [PEER, PEER | {"pod": "apps/other"}]}},
        "/limits": {"clients": [{"pod": "apps/server", "client": client, "open": count}]},
    }
    site = site_at(tmp_path, "limited")
    monkeypatch.setattr(type(site.agent), "page", lambda _, target: pages.get(target, answer))
    monkeypatch.setattr("agent.doctor.flow.Kernel", NoKernel)
    monkeypatch.setattr(type(site), "maps", lambda _: NoMaps())
    steps = explain_flow(site, Flow.parse(f"{SOURCE}-{DESTINATION}"))
    (found,) = [step for step in steps if step.where == "peer"]
    assert found.verdict is Verdict.FAILED and "apps/client" in found.words and "sa/evil" in found.words
    (step,) = [step for step in steps if step.where == "limit"]
    assert step.verdict is verdict
    assert NAME in step.words and f"{count} of 3 are open" in step.words


class NoMaps:
    def __enter__(self) -> NoMaps:
        return self

    def __exit__(self, *_: object) -> None: ...


class NoKernel:
    """What programs would do is no part of this."""

    def __init__(self, _: object) -> None: ...

    def leaves(self, _: object) -> tuple[()]:
        return ()

    def arrives(self, *_: object) -> tuple[()]:
        return ()

    def listens(self, *_: object) -> tuple[()]:
        return ()


def test_of_a_pod_elsewhere_its_node_knows_how_many_are_open() -> None:
    said = explanation("n2")["policy"]["limits"]
    verdict, words = limited.of_flow(said, WHO, [], is_open=False)
    assert verdict is Verdict.OK and "known on the node of that pod" in words
    assert f"3 connections ({NAME}), 1000 bytes a second ({NAME}) at apps/server" in words


def test_of_a_pod_limits_and_clients_are_said() -> None:
    limit = {"pod": "a/b", "limit": "L", "clients": "some", "from": ["principals=x"], "connections": 3}
    none = {"new_per_s": None, "bytes_per_s": None}
    clients = [
        {"pod": pod, "client": client, "open": 3, "connections": 3}
        for pod, client in (("a/b", WHO), ("a/c", ""))
    ]
    told = list(limited.of_pod("a/b", {"limits": [limit | none], "clients": clients}))
    assert told == [
        (Verdict.OK, "L: 3 connections for principals=x"),
        (Verdict.WARNING, f"{WHO} has 3 connections open, of 3: one more is refused (LIMITED)"),
    ]
