"""References to waypoints that lead nowhere, and what of a Gateway nobody understands. Pure.

A connection that was meant to go through a waypoint and does not is judged by the policies of node proxies alone, so
each such reference is said to the agents that it concerns.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.mesh_objects import Gateway, GatewayClass, ServiceEntry, WorkloadEntry
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Namespace, Pod, Service
from agent.controlplane.read.remarks import Remark, Scope
from agent.controlplane.translate.mesh import NETWORK_LABEL, Mesh
from agent.controlplane.translate.networks import REMOTE_CLASS, hbone_port
from agent.controlplane.translate.remarking import remark
from agent.controlplane.translate.waypoints import (
    BINDING,
    CANARY,
    DENIED,
    HBONE_PORT,
    INBOUND_BINDING,
    INGRESS_USE,
    NOT_READY,
    OWN_CLASSES,
    TRAFFIC,
    TRUE,
    UNSUPPORTED,
    USE,
    USE_NAMESPACE,
    WAYPOINT_FOR,
    Binding,
    Waypoints,
    bindings,
)

INGRESS_CLASS = "istio"
FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
PROTOCOLS = ("HTTP", "HTTPS", "TLS", "TCP", "UDP", "HBONE")
"""Of listeners: those of the Gateway API, and Istio's. Others have a domain before them (`istio.io/PROXY`)."""
Bound = Pod | WorkloadEntry | Service | ServiceEntry
WHY = {
    NOT_READY: "there is no such Gateway, or it has no address yet",
    DENIED: "its listener lets in other namespaces (allowedRoutes)",
}


def waypoint_remarks(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    waypoints = Waypoints.of(inventory, mesh.network)
    for namespace in inventory.namespaces.values():
        yield from _of_namespace(namespace, waypoints)
    for made, binding in bindings(inventory, waypoints):
        yield from _of_binding(made, binding, waypoints)
    yield from _of_gateways(inventory, waypoints)
    yield from _of_ingress_gateways(inventory, waypoints)


def why_unbound(binding: Binding) -> str:
    """In words; empty for one that is bound, or for whom none is asked."""
    namespace, name = binding.asked
    if binding.reason == UNSUPPORTED:
        return f"waypoint {namespace}/{name} is not for such ({WAYPOINT_FOR})"
    return f"waypoint {namespace}/{name}: {WHY[binding.reason]}" if binding.reason in WHY else ""


LEFT_ALONE = "connections to such are as without it"


def why_unresolved(entry: ServiceEntry, binding: Binding) -> str:
    """In words, for one with wildcards that no waypoint resolves."""
    hosts = [host for host in entry.hosts if host.startswith("*")]
    return f"node proxies cannot resolve {', '.join(hosts)}" if hosts and not binding.gateway else ""


def _of_namespace(namespace: Namespace, waypoints: Waypoints) -> Iterator[Remark]:
    """One remark for all that inherit it. That a waypoint is not for everything in it is as it should be."""
    name = namespace.meta.name
    binding = waypoints.of_workload(name, {})
    if binding.reason in WHY:
        problem = f"{why_unbound(binding)}, so connections to it go without one"
        yield remark(namespace, problem, scope=Scope(name), field=f"metadata.labels.{USE}")
    yield from _of_lonely_labels(namespace, Scope(name))


def _of_binding(made: Bound, binding: Binding, waypoints: Waypoints) -> Iterator[Remark]:
    labels = made.labels if isinstance(made, WorkloadEntry) else made.meta.labels
    scope = Scope(node=made.node) if isinstance(made, Pod) else Scope(made.meta.namespace)
    if USE in labels and (why := why_unbound(binding)):
        problem = f"{why}, so connections to it go without one"
        yield remark(made, problem, scope=scope, field=f"metadata.labels.{USE}")
    if isinstance(made, ServiceEntry) and (why := why_unresolved(made, binding)):
        is_broken = made.resolution == "DYNAMIC_DNS" and bool(made.addresses or made.is_automatic)
        # As istiod does: an address is given, which a pod whose DNS is captured is told, and nobody is behind it.
        effect = "by captured DNS their names get an address that nobody answers" if is_broken else LEFT_ALONE
        problem = f"{why}, so {effect}"
        yield remark(made, problem, f"bind it to a waypoint ({USE})", scope, field="spec.hosts")
    yield from _of_lonely_labels(made, scope)
    primary = binding.gateway if isinstance(made, Service | ServiceEntry) else None
    if primary and CANARY in made.meta.labels and not waypoints.canary_of(made.meta, primary):
        problem = "there is no such second waypoint for it, or its weight is none: all goes to the first"
        yield remark(made, problem, scope=scope, field=f"metadata.labels.{CANARY}")


def _of_lonely_labels(made: Bound | Namespace, scope: Scope) -> Iterator[Remark]:
    """Labels that mean nothing without another one, or not with this value."""
    labels = made.meta.labels
    if USE_NAMESPACE in labels and USE not in labels and not isinstance(made, WorkloadEntry):
        problem = f"it has no effect without {USE} beside it"
        yield remark(made, problem, scope=scope, field=f"metadata.labels.{USE_NAMESPACE}")
    word = labels.get(INGRESS_USE)
    if word is not None and word not in TRUE | FALSE:
        problem = f"no effect: {word!r} is none of true, false"
        yield remark(made, problem, scope=scope, field=f"metadata.labels.{INGRESS_USE}")


def _of_gateways(inventory: Inventory, waypoints: Waypoints) -> Iterator[Remark]:
    everything: tuple[Gateway | GatewayClass, ...] = (*inventory.gateways, *inventory.gateway_classes)
    for made in everything:
        scope = Scope(made.meta.namespace or None)
        word = made.meta.labels.get(WAYPOINT_FOR, "all")
        if word not in TRAFFIC:
            problem = f"it is for nobody: {word!r} is none of {', '.join(TRAFFIC)}"
            yield remark(made, problem, scope=scope, field=f"metadata.labels.{WAYPOINT_FOR}")
        binding = made.meta.annotations.get(INBOUND_BINDING, "NONE")
        if not BINDING.fullmatch(binding):
            problem = f"no effect: {binding!r} is none of NONE, PROXY, PROXY/PORT"
            yield remark(made, problem, scope=scope, field=f"metadata.annotations.{INBOUND_BINDING}")
    for gateway in inventory.gateways:
        if not gateway.addresses:
            problem = "it has no address, so it is nobody's waypoint"
            yield remark(gateway, problem, "write status.addresses, as its controller would", is_note=True)
        yield from _of_listeners(gateway, waypoints)


def _of_listeners(gateway: Gateway, waypoints: Waypoints) -> Iterator[Remark]:
    """Words that no listener has, which an API server lets pass, and a gateway of the mesh that takes no tunnel.

    Waypoints that Istio deploys take HBONE on its port whatever is written, so that one is a note.
    """
    scope = Scope(gateway.meta.namespace)
    for index, listener in enumerate(gateway.listeners):
        word = listener.protocol
        if word not in PROTOCOLS and "/" not in word:
            problem = f"no effect: {word!r} is none of {', '.join(PROTOCOLS)}"
            yield remark(gateway, problem, scope=scope, field=f"spec.listeners[{index}].protocol")
    network = gateway.meta.labels.get(NETWORK_LABEL)
    if gateway.class_name == REMOTE_CLASS:
        if network and not hbone_port(gateway):
            problem = f"none of them takes HBONE, so it leads nobody into network {network!r}"
            yield remark(
                gateway, problem, "write one of protocol: HBONE", Scope(None), field="spec.listeners"
            )
        elif not network:
            problem = "it is missing, so it leads nobody into another network"
            yield remark(gateway, problem, "write it", scope, field=f"metadata.labels.{NETWORK_LABEL}")
    elif gateway.class_name in OWN_CLASSES and gateway.addresses and not waypoints.listener_of(gateway):
        problem = f"none of them is of HBONE on port {HBONE_PORT}, where node proxies dial it"
        remedy = f"write one of port: {HBONE_PORT}, protocol: HBONE"
        yield remark(gateway, problem, remedy, field="spec.listeners", is_note=True)


def _of_ingress_gateways(inventory: Inventory, waypoints: Waypoints) -> Iterator[Remark]:
    """Those that somebody is bound to. As under istiod any Gateway with an address is a waypoint; its pods decide."""
    named: dict[Key, str] = {}
    for made, binding in bindings(inventory, waypoints):
        if binding.gateway is not None and binding.gateway.class_name == INGRESS_CLASS:
            named.setdefault(binding.gateway.meta.key, str(made.meta))
    for gateway in inventory.gateways:
        if (whose := named.get(gateway.meta.key)) is not None:
            problem = f"class {INGRESS_CLASS} is of ingress gateways, and {whose} goes through it as a waypoint ({USE})"
            remedy = f"write {OWN_CLASSES[0]}, unless its pods take HBONE on port {HBONE_PORT}"
            yield remark(gateway, problem, remedy, field="spec.gatewayClassName", is_note=True)
