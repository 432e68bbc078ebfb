"""PeerAuthentication: which mode holds for a workload, and the one policy that enforces STRICT.

Levels (docs/WIRE.md#translation): workload (selector, in its own namespace), namespace, mesh (root
namespace); the oldest of a level wins and UNSET asks the next. STRICT makes a workload list a DENY of
everyone without an identity. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.controlplane.read.objects import PeerAuthentication
from agent.pb import authorization_pb2 as authz

STATIC_STRICT = "istio_converted_static_strict"


def static_strict(root_namespace: str) -> authz.Authorization:
    """Deny plaintext: no principal. Sent whenever any PeerAuthentication exists."""
    anyone = authz.StringMatch()
    anyone.presence.SetInParent()
    return authz.Authorization(
        name=STATIC_STRICT,
        namespace=root_namespace,
        scope=authz.WORKLOAD_SELECTOR,
        action=authz.DENY,
        rules=[authz.Rule(clauses=[authz.Clause(matches=[authz.Match(not_principals=[anyone])])])],
    )


def requires_tls(
    authentications: Iterable[PeerAuthentication],
    root_namespace: str,
    namespace: str,
    labels: Mapping[str, str],
) -> bool:
    """Whether the effective mode of a workload is STRICT."""
    everything = sorted(authentications, key=lambda p: (p.meta.created, p.meta.namespace, p.meta.name))
    own = [p for p in everything if p.meta.namespace == namespace]
    levels = (
        [p for p in own if p.selector and selects(p.selector, labels) and namespace != root_namespace],
        [p for p in own if not p.selector],
        [p for p in everything if p.meta.namespace == root_namespace and not p.selector],
    )
    for level in levels:
        if level and level[0].mode != "UNSET":
            return level[0].mode == "STRICT"
    return False


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there with its value."""
    return all(labels.get(name) == value for name, value in selector.items())
