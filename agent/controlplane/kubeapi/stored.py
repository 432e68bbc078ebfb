"""Which objects of the Kubernetes API make a mesh, and the document of each that the readers of manifests get. Pure.

Of kinds that every cluster has many of only the fields that are read are kept: a pod's status changes far more often
than what a mesh knows of it. Policies are kept whole, because a field that is not known refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.kubernetes.reflector import Resource, Unusable
from agent.model.limits import ANNOTATION

STORED = "stored"
"""In place of the resourceVersion, which is what tells the readers that an API server has filled in the object. Its
value changes with each heartbeat and says nothing."""
OURS = "istio.io/"
"""In the name of every annotation that means something to a mesh, but for one of ours. Others change at their owners'
pace."""

Kept = Mapping[str, "Kept | None"]
"""Field -> what of it is kept, through lists; None: all of it."""
META: Kept = {
    "name": None,
    "uid": None,
    "generateName": None,
    "namespace": None,
    "labels": None,
    "annotations": None,
    "creationTimestamp": None,
    "deletionTimestamp": None,
    "ownerReferences": None,
}
CONTAINER: Kept = {"name": None, "ports": None, "restartPolicy": None}
POD: Kept = {
    "spec": {
        "nodeName": None,
        "serviceAccountName": None,
        "hostNetwork": None,
        "containers": CONTAINER,
        "initContainers": CONTAINER,
    },
    "status": {"phase": None, "podIP": None, "podIPs": None, "conditions": {"type": None, "status": None}},
}


ENDPOINT_SLICE: Kept = {
    "addressType": None,
    "endpoints": {
        "addresses": None,
        "conditions": {"ready": None},
        "targetRef": {"kind": None, "name": None, "uid": None},
    },
    "ports": None,
}
ADDRESSED: Kept = {"spec": None, "status": {"addresses": None}}
"""Of what others give an address to."""
GATEWAY: Kept = {
    "spec": {
        "gatewayClassName": None,
        "listeners": {"name": None, "port": None, "protocol": None, "allowedRoutes": {"namespaces": None}},
    },
    "status": {"addresses": None},
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as the API and as a manifest name it. `kept`: of its fields apart from `metadata`; None: every one.

    `only`: the name of those that are asked for, where not all are. `may_lack`: a cluster need not have it.
    `older_path`: where older servers have it.
    """

    path: str
    resource: str
    api_version: str
    name: str
    kept: Kept | None = None
    only: str = ""
    may_lack: bool = False
    older_path: str = ""


KINDS = (
    Kind("/api/v1/namespaces", "namespaces", "v1", "Namespace", {}),
    Kind("/api/v1/nodes", "nodes", "v1", "Node", {}),
    Kind("/api/v1/pods", "pods", "v1", "Pod", POD),
    Kind("/api/v1/services", "services", "v1", "Service", {"spec": None}),
    # The mesh config. What else there is of them is large, and none of our business.
    Kind("/api/v1/configmaps", "configmaps", "v1", "ConfigMap", {"data": None}, only="istio"),
    *(
        Kind(f"/apis/security.istio.io/v1/{resource}", resource, "security.istio.io/v1", kind)
        for resource, kind in (
            ("authorizationpolicies", "AuthorizationPolicy"),
            ("peerauthentications", "PeerAuthentication"),
        )
    ),
    Kind(
        "/apis/ztun.io/v1alpha1/connectionlimits",
        "connectionlimits",
        "ztun.io/v1alpha1",
        "ConnectionLimit",
        may_lack=True,
    ),
    Kind(
        "/apis/discovery.k8s.io/v1/endpointslices",
        "endpointslices",
        "discovery.k8s.io/v1",
        "EndpointSlice",
        ENDPOINT_SLICE,
        # Before Kubernetes 1.21; what is read of it is the same.
        older_path="/apis/discovery.k8s.io/v1beta1/endpointslices",
    ),
    *(
        Kind(f"/apis/{api}/{resource}", resource, api, kind, kept, may_lack=True)
        for api, resource, kind, kept in (
            ("networking.istio.io/v1", "serviceentries", "ServiceEntry", ADDRESSED),
            ("networking.istio.io/v1", "workloadentries", "WorkloadEntry", {"spec": None}),
            ("gateway.networking.k8s.io/v1", "gateways", "Gateway", GATEWAY),
            ("gateway.networking.k8s.io/v1", "gatewayclasses", "GatewayClass", {}),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """One object. `text`: its document. `node`: where a pod runs."""

    namespace: str
    name: str
    uid: str
    text: str
    node: str = ""


def resource_of(kind: Kind) -> Resource[Stored]:
    selector = f"metadata.name={kind.only}" if kind.only else ""
    parse = partial(stored, kind)
    return Resource(kind.path, kind.resource, parse, selector, kind.may_lack, kind.older_path)


def stored(kind: Kind, raw: Mapping[str, Any]) -> Stored:
    """Raises Unusable for what cannot be told from others."""
    meta = raw.get("metadata")
    if not isinstance(meta, Mapping):
        raise Unusable(f"a {kind.name} has no metadata")
    namespace, name, uid = (str(meta.get(field) or "") for field in ("namespace", "name", "uid"))
    if not name or not uid:
        raise Unusable(f"{kind.name} {namespace}/{name} has no metadata.{'uid' if name else 'name'}")
    body = _only(raw, kind.kept) if kind.kept is not None else _whole(raw)
    document = {
        **body,
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {**_meta(meta), "resourceVersion": STORED},
    }
    spec = raw.get("spec")
    node = str(spec.get("nodeName") or "") if isinstance(spec, Mapping) else ""
    return Stored(namespace, name, uid, json.dumps(document, sort_keys=True), node)


def _whole(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in raw.items() if field != "status"}


def _meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    kept = _only(meta, META)
    annotations = kept.get("annotations")
    if isinstance(annotations, Mapping):
        kept["annotations"] = {n: text for n, text in annotations.items() if OURS in n or n == ANNOTATION}
    return kept


def _only(value: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    return {field: _part(value[field], below) for field, below in kept.items() if field in value}


def _part(value: Any, kept: Kept | None) -> Any:
    if kept is None:
        return value
    if isinstance(value, list):
        return [_part(item, kept) for item in value]
    # What has another shape than it should is for the reader to refuse.
    return _only(value, kept) if isinstance(value, Mapping) else value
