"""What of the API's Pods and Namespaces counts here: frozen values, and how they are read from its JSON.

Fields as in the Kubernetes API reference (core/v1 Pod, Namespace). Read leniently where a field may be missing at
some time of an object's life, and not at all where the object cannot be told from others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.enroll.wish import PodKey
from agent.kubernetes.reflector import Resource, Unusable
from agent.model.address import IP, AddressError, parse_ip

DATAPLANE_MODE = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
SIDECAR_STATUS = "sidecar.istio.io/status"
HONEST_CONNECT = "ztun.io/honest-connect"
"""Annotation of a pod: whether its connections are answered only when their destination has answered."""
BYPASS_INBOUND = "ambient.istio.io/bypass-inbound-capture"
"""Annotation of a pod: whether connections to it are left alone, but for HBONE."""
DNS_CAPTURE = "ambient.istio.io/dns-capture"
"""Annotation of a pod: whether its DNS queries are captured."""
TERMINAL = ("Succeeded", "Failed")
_STATIC_POD = "kubernetes.io/config.hash"
"""What the kubelet names the groups of a pod by that it has from a file; the API shows a mirror with another uid."""


@dataclass(frozen=True, slots=True)
class Pod:
    """`redirection`: what the annotation says of its capture; None: it has none. `phase` is empty in a new pod.

    `cgroup_uid`: the uid in the names of its control groups. `honest_connect`, `bypass_inbound`,
    `dns_capture`: its annotations of these names.
    """

    namespace: str
    name: str
    uid: str
    version: str
    service_account: str
    labels: Mapping[str, str]
    phase: str = ""
    addresses: tuple[IP, ...] = ()
    is_host_network: bool = False
    has_sidecar: bool = False
    redirection: str | None = None
    cgroup_uid: str = ""
    honest_connect: str | None = None
    bypass_inbound: str | None = None
    dns_capture: str | None = None

    @property
    def key(self) -> PodKey:
        return PodKey(self.namespace, self.name)

    @property
    def is_terminal(self) -> bool:
        """None of its containers will run again."""
        return self.phase in TERMINAL


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str
    uid: str
    labels: Mapping[str, str]
    namespace: str = ""


def pod_of(raw: Mapping[str, Any]) -> Pod:
    """Raises Unusable."""
    meta = _part(raw, "metadata", "a pod")
    what = f"pod {meta.get('namespace')}/{meta.get('name')}"
    namespace, name, uid = (_text(meta, field, what) for field in ("namespace", "name", "uid"))
    spec, status = _part(raw, "spec", what), _part(raw, "status", what, {})
    annotations = _texts(meta, "annotations", what)
    return Pod(
        namespace,
        name,
        uid,
        str(meta.get("resourceVersion") or ""),
        str(spec.get("serviceAccountName") or "default"),
        _texts(meta, "labels", what),
        str(status.get("phase") or ""),
        _addresses(status, what),
        spec.get("hostNetwork") is True,
        SIDECAR_STATUS in annotations,
        annotations.get(REDIRECTION),
        annotations.get(_STATIC_POD) or uid,
        annotations.get(HONEST_CONNECT),
        annotations.get(BYPASS_INBOUND),
        annotations.get(DNS_CAPTURE),
    )


def namespace_of(raw: Mapping[str, Any]) -> Namespace:
    """Raises Unusable."""
    meta = _part(raw, "metadata", "a namespace")
    what = f"namespace {meta.get('name')}"
    return Namespace(_text(meta, "name", what), _text(meta, "uid", what), _texts(meta, "labels", what))


def pods_of_node(node: str) -> Resource[Pod]:
    return Resource("/api/v1/pods", "pods", pod_of, f"spec.nodeName={node}")


NAMESPACES = Resource("/api/v1/namespaces", "namespaces", namespace_of)


def _addresses(status: Mapping[str, Any], what: str) -> tuple[IP, ...]:
    rows = status.get("podIPs")
    texts = (
        [row.get("ip") if isinstance(row, Mapping) else row for row in rows] if isinstance(rows, list) else []
    )
    try:
        # A status of Kubernetes before 1.16, or one that is written by hand, has the first address only.
        return tuple(parse_ip(str(text)) for text in texts or [status.get("podIP")] if text)
    except AddressError as error:
        raise Unusable(f"{what}: status.podIPs: {error}") from error


def _part(raw: Mapping[str, Any], field: str, what: str, default: Any = None) -> Mapping[str, Any]:
    found = raw.get(field, default)
    if not isinstance(found, Mapping):
        raise Unusable(f"{what} has no {field}")
    return found


def _text(meta: Mapping[str, Any], field: str, what: str) -> str:
    found = meta.get(field)
    if not isinstance(found, str) or not found:
        raise Unusable(f"{what} has no metadata.{field}")
    return found


def _texts(meta: Mapping[str, Any], field: str, what: str) -> dict[str, str]:
    found = meta.get(field) or {}
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise Unusable(f"{what}: metadata.{field} is no table of texts")
    return dict(found)
