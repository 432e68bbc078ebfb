"""Whatever a file holds, reading it gives objects, or refusals with a place, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.of_the_plane import manifests

KINDS = [
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "Namespace"),
    ("v1", "Node"),
    ("v1", "ConfigMap"),
    ("v1", "List"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("security.istio.io/v1", "PeerAuthentication"),
]
NAMES = """metadata name namespace labels annotations resourceVersion spec nodeName hostNetwork containers ports
containerPort protocol status podIPs podIP ip phase conditions type selector matchLabels clusterIP clusterIPs
targetPort port ipFamilies rules from to when source operation principals notPrincipals ipBlocks namespaces
serviceAccounts key values notValues action mtls mode portLevelMtls 8080 targetRef items kind apiVersion
ownerReferences controller data mesh source.ip source.principal destination.port methods istio default web"""
WORDS = NAMES.split()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70000),
    st.text(max_size=6),
    st.sampled_from(
        [
            "10.0.0.1",
            "fd00::1",
            "::ffff:1.2.3.4",
            "10.0.0.0/8",
            "*",
            "a*",
            "x/y",
            "80",
            "None",
            "DENY",
            "STRICT",
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    """Something like a Kubernetes object: the right skeleton with anything hung into it."""
    version, kind = draw(st.sampled_from(KINDS))
    made: dict[str, Any] = {"apiVersion": version, "kind": kind, "metadata": {"name": "web"}}
    spec = {"nodeName": "node-a", "clusterIP": "10.0.0.9"} | draw(
        st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4)
    )
    made |= {"spec": spec, "status": {"podIPs": [{"ip": "10.0.0.1"}]}}
    return made | draw(
        st.dictionaries(st.sampled_from(["metadata", "spec", "status", "items"]), VALUES, max_size=1)
    )


@settings(max_examples=200)
@given(st.lists(objects(), max_size=3))
def test_objects_with_anything_in_them(documents: list[dict[str, Any]]) -> None:
    manifests(yaml.safe_dump_all(documents))
    manifests("\n---\n".join(json.dumps(document) for document in documents))


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@?,. \n\t0<~\\\x00\ud800é"), max_size=60))
def test_any_text(text: str) -> None:
    manifests(text)
    manifests("apiVersion: v1\nkind: Pod\nmetadata: " + text)
