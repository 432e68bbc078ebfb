"""Ports that lead nowhere, or elsewhere than it seems. Pure.

Those in policies that are a Service's and no pod's match nothing, for policies see where a connection arrives. Who
writes `ports: ["80"]` for pods that a Service reaches at 8080 has denied, or demanded mutual TLS for, nothing. Pods
need not declare their ports, so only a number that some Service maps to another one is in doubt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import AuthorizationPolicy, PeerAuthentication, Pod, Service
from agent.controlplane.translate.authorization_policy import why_left_out
from agent.controlplane.translate.mesh import Mesh
from agent.controlplane.translate.pod import is_announced
from agent.controlplane.translate.ports import named_port
from agent.controlplane.translate.selection import Selection, by_namespace

Guard = AuthorizationPolicy | PeerAuthentication
PORTS = ("destination_ports", "not_destination_ports")


class Mistaken(NamedTuple):
    """A port of a policy: the field that names it, the Service that has it, and the port that its pods have instead."""

    guard: Guard
    field: str
    port: int
    service: Service
    target: int


def mistaken_ports(inventory: Inventory, mesh: Mesh) -> Iterator[Mistaken]:
    """Ports that are no pod's of those a policy is for, as far as can be known, while a Service maps them to others."""
    named = {guard.meta.key: ports for guard in _guards(inventory) if (ports := dict(_ports(guard)))}
    if not named:
        return
    guards = _Guards([guard for guard in _guards(inventory) if guard.meta.key in named], mesh)
    services = by_namespace(inventory.services, lambda s: s.meta.namespace, lambda s: s.selector)
    found: dict[tuple[Key, int], Mistaken] = {}
    real: set[tuple[Key, int]] = set()
    for pod in filter(is_announced, inventory.pods):
        selection = services.get(pod.meta.namespace)
        chosen = selection.finds(pod.meta.labels) if selection else []
        mapped = {port: (s, target) for s in chosen for port, target in _targets(s, pod).items()}
        own = {port.number for port in pod.ports} | {target for _, target in mapped.values()}
        for guard in guards.of(pod):
            for port, field in named[guard.meta.key].items():
                if port in own:
                    real.add((guard.meta.key, port))
                elif port in mapped:
                    found.setdefault((guard.meta.key, port), Mistaken(guard, field, port, *mapped[port]))
    yield from (mistaken for key, mistaken in found.items() if key not in real)


def ports_named(pod: Pod, name: str) -> tuple[int, ...]:
    """Its TCP ports of a name; the first is the one that a `targetPort` of that name means."""
    named = (port.number for port in pod.ports if (port.name, port.protocol) == (name, "TCP"))
    return tuple(dict.fromkeys(named))


def why_unreachable(service: Service) -> str:
    """Why no connection is made by way of a Service; empty where one can be. Headless ones need no port."""
    if service.is_for_others or any(port.protocol == "TCP" for port in service.ports):
        return ""
    if service.ports:
        others = ", ".join(f"{port.protocol} port {port.port}" for port in service.ports)
        return f"it has no TCP port: ztun serves TCP alone, and {others} is as without a mesh"
    return "" if service.cluster_ips == () else "it has no port, so nobody is reached by its address"


def untaken_ports(service: Service) -> str:
    """Ports beside those of TCP that nobody takes connections to; empty for none. In a cluster somebody else does."""
    return ", ".join(f"{port.protocol} port {port.port}" for port in service.ports if port.protocol != "TCP")


def _guards(inventory: Inventory) -> Iterator[Guard]:
    yield from (policy for policy in inventory.policies if why_left_out(policy) is None)
    yield from inventory.peer_authentications


def _ports(guard: Guard) -> Iterator[tuple[int, str]]:
    """Every port that it names, with its field."""
    if isinstance(guard, PeerAuthentication):
        yield from ((port, f"spec.portLevelMtls.{port}") for port in guard.ports)
        return
    for number, rule in enumerate(guard.rules):
        operations = [(f"to[{index}].operation", terms) for index, terms in enumerate(rule.to)]
        conditions = [(f"when[{index}]", terms) for index, terms in enumerate(rule.when)]
        for place, terms in (*operations, *conditions):
            for name in PORTS:
                yield from ((port, f"spec.rules[{number}].{place}") for port in terms.ports.get(name, ()))


def _targets(service: Service, pod: Pod) -> Mapping[int, int]:
    """TCP port -> the one it reaches on a pod."""
    pairs = (
        (port.port, port.target if isinstance(port.target, int) else named_port(pod, port.target))
        for port in service.ports
        if port.protocol == "TCP"
    )
    return {port: target or port for port, target in pairs if target is not None}


class _Guards:
    """Which of some policies are for a pod."""

    def __init__(self, guards: list[Guard], mesh: Mesh) -> None:
        self._root = mesh.root_namespace
        self._whole = [guard for guard in guards if not guard.selector]
        selecting = [guard for guard in guards if guard.selector]
        self._selecting = by_namespace(selecting, lambda g: g.meta.namespace, lambda g: g.selector)
        self._everywhere = Selection(
            [g for g in selecting if isinstance(g, AuthorizationPolicy) and g.meta.namespace == self._root],
            lambda g: g.selector,
        )

    def of(self, pod: Pod) -> Iterator[Guard]:
        namespace = pod.meta.namespace
        yield from (g for g in self._whole if g.meta.namespace in (namespace, self._root))
        if namespace in self._selecting:
            yield from self._selecting[namespace].finds(pod.meta.labels)
        if namespace != self._root:
            yield from self._everywhere.finds(pod.meta.labels)
