"""Whether a pod is to be in the mesh, and why: pure, and the same for every way by which pods are heard of.

The order is that of Istio's own node agent, so that a cluster may change from one to the other without a pod changing
sides: never the host's network, never a pod with a sidecar, never an excluded namespace; then the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.kubernetes.objects import DATAPLANE_MODE, SIDECAR_STATUS, Namespace, Pod
from agent.kubernetes.selectors import DEFAULT, Enablement

EXCLUDED = frozenset({"kube-system"})
NODE_PROXY_LABEL = ("app", "ztunnel")


@dataclass(frozen=True, slots=True)
class Rules:
    """`system_namespace`: where the node proxy itself runs, whose pods are never captured."""

    enablements: tuple[Enablement, ...] = DEFAULT
    excluded: frozenset[str] = EXCLUDED
    system_namespace: str = "istio-system"


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` says what decided, in words for people."""

    is_wanted: bool
    reason: str


def decide(pod: Pod, namespace: Namespace, rules: Rules) -> Decision:
    """Of a pod that lives."""
    if pod.is_host_network:
        return Decision(False, "it uses the host's network")
    if pod.has_sidecar:
        return Decision(False, f"it has a sidecar (annotation {SIDECAR_STATUS})")
    label, value = NODE_PROXY_LABEL
    if pod.namespace == rules.system_namespace and pod.labels.get(label) == value:
        return Decision(False, "it is the node proxy itself")
    if pod.namespace in rules.excluded:
        return Decision(False, f"namespace {pod.namespace} is excluded (--exclude-namespaces)")
    for enablement in rules.enablements:
        if enablement.matches(pod.labels, namespace.labels):
            return Decision(True, f"enabled: {enablement}")
    mode = pod.labels.get(DATAPLANE_MODE)
    if mode is not None:
        return Decision(False, f"its label {DATAPLANE_MODE} is {mode!r}")
    return Decision(
        False, f"neither it nor namespace {namespace.name} has the label {DATAPLANE_MODE}=ambient"
    )
