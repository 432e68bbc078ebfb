"""Kinds that a cluster need not have, and that come to it later. Each fact returns its line, or raises."""

from __future__ import annotations

from tests.cluster import apps
from tests.cluster.kubernetes import wait
from tests.cluster.stage import Stage
from tests.cluster.traffic import ask, refused

GROUP, RESOURCE = "networking.istio.io", "serviceentries"
ENTRY_ADDRESS = "240.240.7.7"
PATIENCE_S = 90.0
"""A resource that was lacking is asked for again twice a minute."""


def a_kind_that_comes_later(stage: Stage) -> str:
    """Everything before this one was served without it."""
    client = stage.uid("client")
    assert f"{RESOURCE}.{GROUP}" not in stage.cluster.kubectl("get", "crds", "-o", "name"), "it is there"
    assert refused(client, ENTRY_ADDRESS, 80), f"who answers at {ENTRY_ADDRESS}?"
    stage.cluster.apply(definition())
    try:
        stage.cluster.kubectl("wait", "--for=condition=Established", f"crd/{RESOURCE}.{GROUP}")
        stage.cluster.apply(entry(stage.ip("near")))
        took_s = wait("the entry answers", lambda: not refused(client, ENTRY_ADDRESS, 80), PATIENCE_S)
        said = ask(client, ENTRY_ADDRESS, 80)
        assert said.startswith("near-"), said
        stage.cluster.apply(entry(stage.ip("server")))
        changed_s = wait("it is changed", lambda: asked(client).startswith("server-"), 30)
        stage.cluster.kubectl("-n", "demo", "delete", "serviceentry", "later")
        wait("it is gone", lambda: refused(client, ENTRY_ADDRESS, 80), 30)
    finally:
        stage.cluster.kubectl("delete", "crd", f"{RESOURCE}.{GROUP}")
    return (
        f"a kind defined while the mesh runs: a ServiceEntry of it answers after {took_s:.0f} s, "
        f"its change after {changed_s:.1f} s; deleted it is gone"
    )


def asked(client: str) -> str:
    """What the entry answers; empty: nobody did."""
    try:
        return ask(client, ENTRY_ADDRESS, 80)
    except OSError:
        return ""


def definition() -> apps.Object:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{RESOURCE}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "ServiceEntry",
                "listKind": "ServiceEntryList",
                "plural": RESOURCE,
                "singular": "serviceentry",
            },
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }


def entry(address: str) -> apps.Object:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "later", "namespace": "demo"},
        "spec": {
            "hosts": ["later.example"],
            "addresses": [ENTRY_ADDRESS],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "tcp", "protocol": "TCP", "targetPort": apps.PORT}],
            "endpoints": [{"address": address}],
        },
    }
