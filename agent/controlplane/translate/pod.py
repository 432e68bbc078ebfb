"""Pod to `istio.workload.Workload`, field by field as istiod does it (docs/WIRE.md#translation). Pure.

A workload is announced as reachable by HBONE if something captures it: the annotation that Istio's CNI writes, the
label of one that speaks HBONE itself, or the report of its node's agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from agent.controlplane.read.objects import Node, Pod
from agent.pb import workload_pb2 as wds

CAPTURED = "ambient.istio.io/redirection"
TUNNEL = "networking.istio.io/tunnel"
WORKLOAD_NAME = "service.istio.io/workload-name"
NAMES = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
REVISIONS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
REGION, ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
SUBZONE = "topology.istio.io/subzone"
CRON_JOB = re.compile(r"(.+)-\d{8,10}")


def pod_uid(pod: Pod, cluster_id: str) -> str:
    """The resource's name; the double slash is the empty API group."""
    return f"{cluster_id}//Pod/{pod.meta.namespace}/{pod.meta.name}"


def is_announced(pod: Pod) -> bool:
    return pod.is_live and bool(pod.ips)


def translate_pod(
    pod: Pod,
    *,
    cluster_id: str,
    trust_domain: str,
    network: str,
    is_enrolled: bool,
    services: Mapping[str, wds.PortList],
    policies: Iterable[str],
    node: Node | None,
    network_gateway: wds.GatewayAddress | None = None,
) -> wds.Workload:
    """`trust_domain` is empty for the default one; `node` the Node object, if there is one."""
    name = workload_name(pod)
    is_native = speaks_hbone(pod.labels)
    captured = is_enrolled or pod.meta.annotations.get(CAPTURED) == "enabled"
    message = wds.Workload(
        uid=pod_uid(pod, cluster_id),
        name=pod.meta.name,
        namespace=pod.meta.namespace,
        addresses=[ip.packed for ip in pod.ips],
        network=network,
        network_gateway=network_gateway,
        tunnel_protocol=wds.HBONE if captured or is_native else wds.NONE,
        native_tunnel=is_native,
        trust_domain=trust_domain,
        service_account=pod.service_account,
        node=pod.node,
        canonical_name=first_label(pod.meta.labels, NAMES, name),
        canonical_revision=first_label(pod.meta.labels, REVISIONS, "latest"),
        workload_type=wds.POD,
        workload_name=name,
        authorization_policies=policies,
        status=wds.HEALTHY if pod.ready and not pod.leaving else wds.UNHEALTHY,
        cluster_id=cluster_id,
        services=services,
        network_mode=wds.HOST_NETWORK if pod.host_network else wds.STANDARD,
    )
    locality = _locality(node)
    if locality.ByteSize():
        message.locality.CopyFrom(locality)
    return message


def speaks_hbone(labels: Mapping[str, str]) -> bool:
    """Whether it does so itself, as its labels say."""
    return "http" in [word.strip() for word in labels.get(TUNNEL, "").split(",")]


def first_label(labels: Mapping[str, str], names: Iterable[str], default: str) -> str:
    """The value of the first label that is there, empty or not."""
    return next((labels[name] for name in names if name in labels), default)


def workload_name(pod: Pod) -> str:
    """A label, or the controller that generated the pod, or the pod itself."""
    labels = pod.meta.labels
    if WORKLOAD_NAME in labels:
        return labels[WORKLOAD_NAME]
    if pod.owner is None or not pod.generated:
        return pod.meta.name
    kind, name = pod.owner.kind, pod.owner.name
    if kind == "ReplicaSet":
        for label in ("rollouts-pod-template-hash", "pod-template-hash"):
            if labels.get(label) and name.endswith("-" + labels[label]):
                return name.removesuffix("-" + labels[label])
    if kind == "ReplicationController" and labels.get("deploymentconfig"):
        return labels["deploymentconfig"]
    made_by_schedule = CRON_JOB.fullmatch(name) if kind == "Job" else None
    return made_by_schedule[1] if made_by_schedule else name


def _locality(node: Node | None) -> wds.Locality:
    labels = node.meta.labels if node else {}
    return wds.Locality(
        region=labels.get(REGION, ""), zone=labels.get(ZONE, ""), subzone=labels.get(SUBZONE, "")
    )
