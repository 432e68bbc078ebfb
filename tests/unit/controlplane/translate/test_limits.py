"""Limits as people write them, up to what a node is told: whose they are, and what becomes of bad ones."""

from __future__ import annotations

import pytest

from agent.controlplane.read.admission import NOTHING, Standing, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.refused import Outcome
from agent.controlplane.translate.compose import translate
from agent.controlplane.translate.mesh import MeshSettings
from agent.model.limits import ConnectionLimit, Limits
from agent.model.policy import Match, ServiceAccountMatch
from agent.model.workload import Workload
from agent.wire.xds_decode import decode_address
from tests.support import mesh
from tests.support.controlplane import NAMESPACE, pod
from tests.support.judge import Judge
from tests.support.manifest_texts import refused

WEB, DB = pod("web", "n1", "10.0.0.1", labels="app: web"), pod("db", "n1", "10.0.0.2", labels="app: db")
ANNOTATION = 'metadata: {annotations: {ztun.io/limits: "LIMITS"}, '


def annotated(text: str, limits: str) -> str:
    assert "metadata: {" in text
    return text.replace("metadata: {", ANNOTATION.replace("LIMITS", limits))


def limit(spec: str, name: str = "l", namespace: str = "demo") -> str:
    return (
        "---\napiVersion: ztun.io/v1alpha1\nkind: ConnectionLimit\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )


def told(standing: Standing) -> dict[str, tuple[ConnectionLimit, ...]]:
    """What a node is told of each pod."""
    served = translate(collect(standing.served()), {}, MeshSettings())
    found = [decode_address(name, each.value) for name, each in served.addresses.items()]
    return {each.name: each.limits for each in found if isinstance(each, Workload)}


def first(*texts: str) -> Standing:
    return admit(NOTHING, {"f": parse("f", NAMESPACE + "".join(texts))}, is_first=True)


def test_an_annotation_is_for_every_client_of_its_pod() -> None:
    standing = first(annotated(WEB, "connections=3, bytes-per-second=10M"), DB)
    assert not standing.errors
    name = "its annotation ztun.io/limits"
    assert told(standing) == {"web": (ConnectionLimit(name, Limits(3, None, 10_000_000)),), "db": ()}


def test_an_object_is_for_whom_it_selects_and_says() -> None:
    account = "from: [{source: {serviceAccounts: [batch], notPrincipals: [cluster.local/ns/demo/sa/x]}}]"
    standing = first(
        WEB,
        DB,
        limit(f"selector: {{matchLabels: {{app: web}}}}, {account}, newConnectionsPerSecond: 5", "a"),
        limit("connections: 7", "b"),
        limit("connections: 9", "c", "elsewhere"),
        limit("bytesPerSecond: 64Ki", "d", "istio-system"),
        limit("selector: {matchLabels: {app: db}}, connections: 1", "e", "istio-system"),
    )
    assert not standing.errors
    client = Match(
        service_accounts=(ServiceAccountMatch("demo", "batch"),),
        not_principals=(mesh.exact("cluster.local/ns/demo/sa/x"),),
    )
    everywhere = ConnectionLimit("ConnectionLimit istio-system/d", Limits(None, None, 65536))
    here = ConnectionLimit("ConnectionLimit demo/b", Limits(7))
    assert told(standing) == {
        "web": (ConnectionLimit("ConnectionLimit demo/a", Limits(None, 5), (client,)), here, everywhere),
        "db": (here, everywhere, ConnectionLimit("ConnectionLimit istio-system/e", Limits(1))),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (limit(""), "spec: it limits nothing: write some of connections, newConnectionsPerSecond"),
        (limit("connections: 1, conections: 2"), "spec.conections: unknown field; did you mean spec.connections?"),
        (limit("connections: ten"), "spec.connections: 'ten' is not a whole number"),
        (limit("connections: true"), "spec.connections: it must be a whole number from 0 to 10000000"),
        (limit("connections: [1]"), "spec.connections: it must be a whole number from 0 to 10000000"),
        (limit("newConnectionsPerSecond: 2.5"), "PerSecond: it must be a whole number from 1 to 1000000"),
        (limit("connections: -1"), "spec.connections: it must be a whole number from 0 to 10000000"),
        (limit("newConnectionsPerSecond: 0"), "PerSecond: 0 is not from 1 to 1000000 (connections=0 lets nobody in)"),
        (limit("bytesPerSecond: 1.5M"), "spec.bytesPerSecond: '1.5M' is not a whole number"),
        (limit("connections: 1, from: []"), "spec.from: the list is empty"),
        (limit("connections: 1, from: [{source: {}}]"), "spec.from[0].source: it says nothing"),
        (limit("connections: 1, from: [{source: {ipBlocks: [10.0.0.0/8]}}]"), "ipBlocks: unknown field"),
        (limit("connections: 1, from: [{source: {principals: [spiffe://x]}}]"), "write principals without spiffe"),
        (limit("connections: 1").replace("namespace: demo", "labels: {}"), "metadata.namespace: it is missing"),
        (limit("connections: 1").replace("ztun.io/v1alpha1", "ztun.io/v1"), "ConnectionLimit of ztun.io/v1alpha1?"),
        (limit("connections: 1").replace("Limit", "Limits"), "did you mean ConnectionLimit of ztun.io"),
        (annotated(WEB, "connection=1"), "metadata.annotations.ztun.io/limits: 'connection' is no limit"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_with_its_place_and_a_remedy(text: str, said: str) -> None:
    errors = refused(text)
    assert any(said in error for error in errors), errors


def test_a_source_without_its_name_is_one_fault_and_hides_no_other() -> None:
    misplaced = "{principals: [cluster.local/ns/demo/sa/x]}"
    errors = refused(limit(f"connections: 1, from: [{{source: {{}}}}, {misplaced}]"))
    assert len(errors) == 2, errors
    assert any(
        "spec.from[1].principals: unknown field; did you mean spec.from[1].source.principals?" in e
        for e in errors
    )
    assert any("spec.from[0].source: it says nothing" in e for e in errors)


def test_one_that_is_refused_keeps_what_held_and_at_first_lets_nobody_in() -> None:
    good = limit("selector: {matchLabels: {app: web}}, connections: 3")
    broken = good.replace("connections: 3", "connections: many")
    standing = first(WEB, DB, broken)
    assert [each.outcome for each in standing.refused] == [Outcome.CLOSED]
    assert told(standing) == {
        "web": (ConnectionLimit("ConnectionLimit demo/l (refused until it is mended)", Limits(0)),),
        "db": (),
    }
    assert "let in no new connection" in standing.refused[0].effect
    before = first(WEB, DB, good)
    after = admit(before, {"f": parse("f", NAMESPACE + WEB + DB + broken)})
    assert [each.outcome for each in after.refused] == [Outcome.KEPT]
    assert told(after) == told(before)


def test_a_stored_pod_whose_annotation_means_nothing_is_there_and_closed() -> None:
    stored = annotated(WEB, "connections=many").replace("metadata: {", 'metadata: {resourceVersion: "1", ')
    stored = stored.replace("status: {", "status: {phase: Running, ")
    standing = first(stored)
    assert not standing.errors
    [said] = told(standing)["web"]
    assert said.limits == Limits(connections=0)
    assert "(refused until it is mended: connections: 'many' is not a whole number" in said.name


def test_a_client_that_nobody_can_be_and_pods_that_are_not_there_are_said() -> None:
    texts = (
        WEB,
        limit("connections: 1, from: [{source: {principals: [elsewhere/ns/demo/sa/x]}}]"),
        limit("connections: 1, selector: {matchLabels: {app: nobody}}", "m"),
    )
    remarks = Judge(a="".join(texts)).said
    assert any("nobody can be 'elsewhere/ns/demo/sa/x'" in each.problem for each in remarks)
    assert any("no workload of namespace demo has the labels app=nobody" in each.problem for each in remarks)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("principals: [cluster.local/ns/demo/sa/wbe]", "no workload has the service account demo/wbe"),
        ("serviceAccounts: [wbe]", "no workload has the service account demo/wbe"),
        ("namespaces: [dmeo]", "namespace dmeo has no workloads"),
        ("principals: [cluster.local/ns/demo/sa/web]", ""),
        ("notPrincipals: [cluster.local/ns/demo/sa/wbe]", ""),
    ],
)
def test_a_client_that_no_workload_is_is_said_as_of_policies(source: str, said: str) -> None:
    judge = Judge(a=NAMESPACE + WEB + limit(f"connections: 1, from: [{{source: {{{source}}}}}]"))
    notes = [f"spec.from[0].source: {said}, so it matches nobody"] if said else []
    assert [note.partition("demo/l: ")[2] for note in judge.notes()] == notes
    assert not judge.without_effect()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WEB + limit("connections: 0"), "connections: 0 lets nobody in, at all pods of namespace demo"),
        (WEB + limit("connections: 0", namespace="istio-system"), "lets nobody in, at all pods of the mesh"),
        (
            WEB + limit("connections: 0, selector: {matchLabels: {app: web}}, from: [{source: {namespaces: [demo]}}]"),
            "lets none of these clients in, at the pods it selects",
        ),
        (annotated(WEB, "connections=0"), "demo/web: metadata.annotations.ztun.io/limits: connections=0 lets nobody"),
    ],
)  # fmt: skip
def test_a_limit_that_lets_nobody_in_is_said(text: str, said: str) -> None:
    judge = Judge(a=NAMESPACE + text)
    [note] = judge.notes()
    assert said in note and "leave connections out" in note
    assert not judge.without_effect()
