"""What the manifests ask for and node proxies will not do, or not as it seems: to be said where people look. Pure.

Everything here was read without an error; only side by side, or against the mesh's own trust domain, does it turn out
to have no effect. What is intended to have none (a dry run) is a note and concerns no agent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import (
    AuthorizationPolicy,
    ConnectionLimit,
    Guard,
    Labelled,
    Object,
    PeerAuthentication,
    Pod,
    Service,
)
from agent.controlplane.read.refused import GUARDS
from agent.controlplane.read.remarks import EVERYBODY, Remark, Scope, Weight
from agent.controlplane.read.security_kinds import DRY_RUN
from agent.controlplane.translate.authorization_policy import (
    DENIES_MORE,
    PRINCIPALS,
    beyond_nodes,
    why_left_out,
)
from agent.controlplane.translate.contradictions import contradictions
from agent.controlplane.translate.entry_effects import entry_remarks
from agent.controlplane.translate.limit_effects import limit_remarks
from agent.controlplane.translate.marks import Marked, misvalued_marks, unused_marks
from agent.controlplane.translate.mesh import Mesh, discovered
from agent.controlplane.translate.peer_authentication import PeerAuthentications
from agent.controlplane.translate.pod import is_announced
from agent.controlplane.translate.port_effects import (
    mistaken_ports,
    ports_named,
    untaken_ports,
    why_unreachable,
)
from agent.controlplane.translate.remarking import remark
from agent.controlplane.translate.selection import Selection, by_namespace
from agent.controlplane.translate.sources import of_other_domains, unknown_sources
from agent.controlplane.translate.waypoint_effects import waypoint_remarks

Selecting = Guard | Service | ServiceEntry
INSTEAD = {"outboundTrafficPolicy": "agents have --unknown-destination and --mesh-cidrs for that"}
"""Of fields of the mesh config that ask for what is an option here."""
EXAMPLES = 3
"""How many pods a remark names."""


def remarks(everything: Inventory, mesh: Mesh) -> Iterator[Remark]:
    """For all objects that were read, also those that `discoverySelectors` leave out."""
    yield from _of_mesh_config(everything, mesh)
    yield from _undiscovered(everything, mesh)
    inventory = discovered(everything, mesh)
    for policy in inventory.policies:
        yield from _of_policy(policy, mesh)
    yield from _of_peer_authentications(inventory, mesh)
    yield from limit_remarks(inventory, mesh)
    yield from _of_targets(inventory)
    yield from _of_nobody(inventory, mesh)
    yield from unknown_sources(inventory, mesh)
    yield from _of_ports(inventory, mesh)
    yield from _of_marks(inventory, mesh)
    yield from waypoint_remarks(inventory, mesh)
    yield from entry_remarks(inventory, mesh)
    for service in inventory.services:
        if service.unused:
            yield remark(service, f"no effect here: {', '.join(service.unused)}", is_note=True)
        if reason := why_unreachable(service):
            yield remark(service, reason, is_note=True)
        elif not mesh.is_of_cluster and (others := untaken_ports(service)):
            yield remark(service, f"ztun serves TCP alone: {others} is as without a mesh", is_note=True)


def scope_of(policy: Guard, mesh: Mesh) -> Scope:
    """The pods that a policy is for. In the root namespace an AuthorizationPolicy selects in all namespaces."""
    is_selecting_peers = isinstance(policy, PeerAuthentication) and bool(policy.selector)
    if not policy.meta.namespace or (policy.meta.namespace == mesh.root_namespace and not is_selecting_peers):
        return Scope(None, policy.selector or None)
    return Scope(policy.meta.namespace, policy.selector or None)


def _of_mesh_config(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    for config in inventory.mesh_configs:
        if config.meta.namespace != mesh.system_namespace:
            remedy = f"the mesh config is that of namespace {mesh.system_namespace}"
            yield remark(config, "it has no effect", remedy, EVERYBODY)
            continue
        for name, meant in config.misspelt.items():
            problem = f"unknown field of the mesh config; did you mean {meant}?"
            yield remark(config, problem, scope=EVERYBODY, field=f"data.mesh: {name}")
        for name in config.unused:
            if name not in config.misspelt:
                yield remark(config, f"no effect here: {name}", INSTEAD.get(name, ""), is_note=True)


def _undiscovered(everything: Inventory, mesh: Mesh) -> Iterator[Remark]:
    """Namespaces that count for nothing: one remark each, heavier where a policy is among what is left out."""
    inventory = discovered(everything, mesh)
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[str, Object] = {}
    here = {id(made) for made in inventory.placed()}
    for made in everything.placed():
        if id(made) not in here:
            left_out[made.meta.namespace][made.meta.kind] += 1
            first.setdefault(made.meta.namespace, made)
    for namespace, counts in sorted(left_out.items()):
        what = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        is_guarded = bool(counts.keys() & set(GUARDS))
        scope = EVERYBODY if namespace == mesh.root_namespace else Scope(namespace)
        yield Remark(
            place=first[namespace].meta.place,
            about=f"Namespace {namespace}",
            problem=f"discoverySelectors of the mesh config leave it out: {what} not served",
            remedy="label it as they ask, if it is of this mesh",
            weight=Weight.INEFFECTIVE if is_guarded else Weight.NOTE,
            scope=scope if is_guarded else None,
        )


def _of_policy(policy: AuthorizationPolicy, mesh: Mesh) -> Iterator[Remark]:
    scope = scope_of(policy, mesh)
    reason = why_left_out(policy)
    if reason:
        yield remark(policy, reason, scope=scope, is_note=policy.meta.annotations.get(DRY_RUN) == "true")
        return
    for doubt in policy.doubts:
        yield remark(policy, doubt, scope=scope)
    if policy.action == "ALLOW" and not policy.rules:
        yield remark(policy, "it has no rules, so it allows nobody", is_note=True)
    if beyond := beyond_nodes(policy):
        outcome = DENIES_MORE if policy.action == "DENY" else ""
        yield remark(policy, beyond, "leave them out, or have a waypoint judge them", scope, outcome=outcome)
    for field, excluded, is_whole in contradictions(policy):
        verb = "denies" if policy.action == "DENY" else "allows"
        effect = f"the rule {verb} nothing" if is_whole else f"the rule {verb} by its other entries alone"
        problem = f"it lists {excluded} and excludes all of that, so nothing matches it: {effect}"
        yield remark(policy, problem, "take it out of one of the two lists", scope, field=field)
    yield from of_other_domains(policy, _principals(policy), mesh, scope)


def _principals(policy: AuthorizationPolicy) -> Iterator[tuple[str, str]]:
    """Every principal of a policy, with the place of its source or condition."""
    for number, rule in enumerate(policy.rules):
        sources = [(f"from[{index}].source", terms) for index, terms in enumerate(rule.sources)]
        conditions = [(f"when[{index}]", terms) for index, terms in enumerate(rule.when)]
        for place, terms in (*sources, *conditions):
            for name in PRINCIPALS:
                for text in terms.strings.get(name, ()):
                    yield f"spec.rules[{number}].{place}", text


def _of_peer_authentications(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    peers = PeerAuthentications(inventory.peer_authentications, mesh.root_namespace)
    for each in inventory.peer_authentications:
        scope = scope_of(each, mesh)
        for doubt in each.doubts:
            yield remark(each, doubt, scope=scope)
        if each.mode == "DISABLE":
            problem = (
                "mode DISABLE takes plaintext as PERMISSIVE does; between pods of the mesh mutual TLS stays"
            )
            yield remark(each, problem, "write PERMISSIVE", field="spec.mtls.mode", is_note=True)
        yield from _of_one_peer_authentication(each, inventory.pods, mesh)
        for port in peers.disabled_in_vain(each):
            yield remark(
                each,
                f"DISABLE of port {port} does not open it under the STRICT above it",
                "write PERMISSIVE",
                scope,
            )
    for namespace in sorted({p.meta.namespace for p in inventory.peer_authentications}):
        level = peers.of_level(namespace)
        whose = "the mesh" if namespace == mesh.root_namespace else f"namespace {namespace}"
        for later in level[1:]:
            yield _second(later, level[0], whose, mesh)
    yield from _overlapping(inventory.pods, peers, mesh)


def _of_one_peer_authentication(
    each: PeerAuthentication, pods: Iterable[Pod], mesh: Mesh
) -> Iterator[Remark]:
    unset = [str(port) for port, mode in each.ports.items() if mode == "UNSET"]
    if each.mode == "UNSET" and len(unset) == len(each.ports):
        yield remark(
            each, "it says no mode, so it changes nothing", "write one, or delete it", scope_of(each, mesh)
        )
    elif unset:
        problem = f"no mode is said for port {', '.join(unset)}, which changes nothing there"
        yield remark(each, problem, "write one, or leave the port out", scope_of(each, mesh))
    if each.selector and each.meta.namespace == mesh.root_namespace:
        elsewhere = Selection([each], lambda p: p.selector)
        if any(p.meta.namespace != mesh.root_namespace and elsewhere.finds(p.meta.labels) for p in pods):
            yield remark(
                each,
                f"its selector finds pods of namespace {mesh.root_namespace} alone, and others have its labels",
                "write it in their namespace",
                Scope(None, each.selector),
            )


def _of_nobody(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    """Policies and Services that no workload is found for: pods may still come, or a label or namespace is misspelt."""
    guards: list[Guard] = [
        *inventory.policies,
        *inventory.peer_authentications,
        *inventory.connection_limits,
    ]
    selecting: list[Selecting] = [
        *(g for g in guards if g.selector and g.meta.namespace),
        *(s for s in inventory.services if s.selector),
        *(e for e in inventory.service_entries if e.selector),
    ]
    everywhere = [
        p for p in selecting if isinstance(p, AuthorizationPolicy | ConnectionLimit) and _is_of_mesh(p, mesh)
    ]
    selection: dict[str, Selection[Selecting]] = by_namespace(
        selecting, lambda s: s.meta.namespace, lambda s: s.selector
    )
    of_mesh = Selection(everywhere, lambda p: p.selector)
    found: set[Key] = set()
    populated: set[str] = set()
    workloads: tuple[Labelled, ...] = (
        *inventory.pods,
        *inventory.workload_entries,
        *inventory.service_entries,
    )
    for workload in workloads:
        namespace = workload.meta.namespace
        populated.add(namespace)
        if namespace in selection:
            chosen = selection[namespace].finds(workload.labels)
            # An entry is no part of another one: only policies find it.
            found.update(
                s.meta.key for s in chosen if isinstance(s, Guard) or not isinstance(workload, ServiceEntry)
            )
        found.update(p.meta.key for p in of_mesh.finds(workload.labels))
    for made in selecting:
        if made.meta.key not in found:
            where = "the mesh" if made in everywhere else f"namespace {made.meta.namespace}"
            labels = ", ".join(f"{name}={value}" for name, value in (made.selector or {}).items())
            yield remark(
                made, f"no workload of {where} has the labels {labels}, so it is for nobody", is_note=True
            )
    for guard in guards:
        if not guard.selector and guard.meta.namespace not in ("", mesh.root_namespace, *populated):
            yield remark(
                guard, f"namespace {guard.meta.namespace} has no workloads, so it is for nobody", is_note=True
            )


def _is_of_mesh(policy: Guard, mesh: Mesh) -> bool:
    return policy.meta.namespace == mesh.root_namespace


def _overlapping(pods: Iterable[Pod], peers: PeerAuthentications, mesh: Mesh) -> Iterator[Remark]:
    said: set[tuple[str, str, str]] = set()
    for pod in pods:
        found = peers.selecting(pod.meta.namespace, pod.meta.labels)
        for later in found[1:]:
            if later.meta.key not in said:
                said.add(later.meta.key)
                yield _second(later, found[0], str(pod.meta), mesh)


def _second(later: PeerAuthentication, first: PeerAuthentication, whose: str, mesh: Mesh) -> Remark:
    """Two of one level: only the first counts. They may agree; mostly one of them is forgotten."""
    agree = (later.mode, later.ports) == (first.mode, first.ports)
    why = "is older" if first.meta.created else "comes first by file and name"
    contradiction = "" if agree else f", and they contradict each other ({later.mode}, {first.mode})"
    return remark(
        later,
        f"it does not count for {whose}: {first.meta} at {first.meta.place} {why}{contradiction}",
        "keep one of them",
        scope_of(later, mesh),
        is_note=agree,
    )


def _of_ports(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    for guard, field, port, service, target in mistaken_ports(inventory, mesh):
        yield remark(
            guard,
            f"no connection arrives at port {port}: that is of {service.meta}, which reaches its pods at {target}",
            f"write {target}: policies are judged by the port of the pod",
            scope_of(guard, mesh),
            field=field,
        )


def _of_marks(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    """Labels and annotations that do nothing."""
    marked: tuple[Marked, ...] = (
        *inventory.namespaces.values(),
        *inventory.pods,
        *inventory.services,
        *inventory.workload_entries,
        *inventory.service_entries,
    )
    for made in marked:
        if unused := unused_marks(made, mesh):
            yield remark(made, f"no effect here: {', '.join(unused)}", is_note=True)
        for field, value, known in misvalued_marks(made):
            scope = (
                Scope(node=made.node)
                if isinstance(made, Pod)
                else Scope(made.meta.namespace or made.meta.name)
            )
            yield remark(made, f"no effect: {value!r} is none of {known}", scope=scope, field=field)


def _of_targets(inventory: Inventory) -> Iterator[Remark]:
    """Services that send connections to a port by a name that pods of theirs do not have."""
    named = [s for s in inventory.services if any(isinstance(p.target, str) for p in s.ports)]
    selecting = by_namespace(named, lambda s: s.meta.namespace, lambda s: s.selector)
    pods: dict[Key, list[Pod]] = defaultdict(list)
    for pod in inventory.pods:
        if pod.meta.namespace in selecting and is_announced(pod):
            for service in selecting[pod.meta.namespace].finds(pod.meta.labels):
                pods[service.meta.key].append(pod)
    for service in named:
        chosen = pods[service.meta.key]
        for port in service.ports:
            if isinstance(port.target, str) and port.protocol == "TCP":
                numbers = [(p, ports_named(p, port.target)) for p in chosen]
                scope = Scope(service.meta.namespace, service.selector)
                if without := [p for p, found in numbers if not found]:
                    problem = f"no TCP port named {port.target!r} ({_names(without)})"
                    problem = f"port {port.port}: {_have(len(without), len(chosen))} {problem}"
                    remedy = "name a port of their containers so, or write a number"
                    yield remark(service, problem, remedy, scope)
                if several := [(p, found) for p, found in numbers if len(found) > 1]:
                    pods_of, (first, *others) = [p for p, _ in several], several[0][1]
                    problem = f"several TCP ports named {port.target!r} ({_names(pods_of)})"
                    problem = f"port {port.port}: {_have(len(several), len(chosen))} {problem}"
                    problem += f": it means the first, {first}, and never {', '.join(map(str, others))}"
                    remedy = "give each port of a pod a name of its own, or write a number"
                    yield remark(service, problem, remedy, scope)


def _have(some: int, all_of_them: int) -> str:
    if all_of_them == 1:
        return "its only pod has"
    return f"{some} of its {all_of_them} pods {'has' if some == 1 else 'have'}"


def _names(some: list[Pod]) -> str:
    shown = ", ".join(pod.meta.name for pod in some[:EXAMPLES])
    return f"{shown} and {len(some) - EXAMPLES} more" if len(some) > EXAMPLES else shown
