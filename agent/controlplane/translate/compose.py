"""The whole mesh: an Inventory and the set of captured pods, to the Snapshot that is served. Pure.

Names, order of lists and the fields between objects (which Services and policies a workload has) follow istiod
(docs/WIRE.md#translation). A change is composed by itself: made anew are the objects that changed and the workloads
that they select, so that one policy costs the same in a mesh of any size. `changed` and `with_enrolled` answer another
value; what both have alike they share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain

from agent.controlplane.read.changes import Changes
from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import (
    AuthorizationPolicy,
    Key,
    MeshConfig,
    Namespace,
    Pod,
    Service,
)
from agent.controlplane.translate.authorization_policy import policy_name, translate_policy
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from agent.controlplane.translate.mesh_index import MeshIndex
from agent.controlplane.translate.pod import is_announced, pod_services, pod_uid, translate_pod
from agent.controlplane.translate.resources import Policy, Resource, Snapshot, make_resource
from agent.controlplane.translate.service import service_name, translate_service
from agent.model.address import NetworkAddress
from agent.model.identity import DEFAULT_TRUST_DOMAIN
from agent.pb import authorization_pb2 as authz
from agent.pb import workload_pb2 as wds

NETWORK_LABEL = "topology.istio.io/network"
PodKey = tuple[str, str]
"""Namespace and name of a pod."""
Enrolled = Mapping[str, Collection[PodKey]]
"""Node -> the pods its agent says it captures."""
FEW = 1000
"""More changed objects than this, and than a quarter of the pods, are composed with everything else."""


def translate(inventory: Inventory, enrolled: Enrolled, settings: MeshSettings) -> Snapshot:
    """Everything served."""
    return Composed(inventory, enrolled, settings).snapshot


class Composed:
    """A mesh, and what is served of it. `pulse` is called between resources; it may raise, to break off."""

    def __init__(
        self,
        inventory: Inventory,
        enrolled: Enrolled,
        settings: MeshSettings,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        mesh = self.mesh = mesh_of(inventory, settings)
        self._index = MeshIndex(discovered(inventory, mesh), mesh)
        self.enrolled = enrolled
        self._captured = {node: frozenset(pods) for node, pods in enrolled.items()}
        self._trust_domain = "" if mesh.trust_domain == DEFAULT_TRUST_DOMAIN else mesh.trust_domain
        system = inventory.namespaces.get(mesh.system_namespace)
        self._network = system.meta.labels.get(NETWORK_LABEL, "") if system else ""
        # Made once: every workload of a Service holds its name.
        self._names = {key: service_name(s, mesh.domain) for key, s in self._index.services.items()}
        self._authorizations = self._authorized(self._index.policies.values())
        addresses = []
        for pod in filter(is_announced, self.pods):
            pulse()
            addresses.append(self._workload(pod))
        addresses.extend(map(self._service, self._index.services.values()))
        self.snapshot = Snapshot(
            {r.name: r for r in sorted(addresses, key=lambda r: r.name)}, self._policies()
        )

    @property
    def pods(self) -> Collection[Pod]:
        return self._index.pods.values()

    @property
    def inventory(self) -> Inventory:
        """Of the objects, the pods."""
        return Inventory(pods=self._index.pods.values())

    def counting(self, changes: Changes) -> Changes:
        """Those of the changes that count in this mesh."""
        return self._index.counting(changes)

    def is_whole_affair(self, changes: Changes) -> bool:
        """Whether they have to be composed with everything else: all depends on one of them, or they are many."""
        if len(changes) > max(FEW, len(self._index.pods) // 4):
            return True
        return any(
            isinstance(o, MeshConfig) or (isinstance(o, Namespace) and self._depend_on(o)) for o in changes
        )

    def _depend_on(self, namespace: Namespace) -> bool:
        """Whether it says which network this is, or its labels whether it counts."""
        return bool(self.mesh.discovery) or namespace.meta.name == self.mesh.system_namespace

    def changed(self, changes: Changes) -> Composed:
        """The mesh after the changes, which are no whole affair."""
        after = copy.copy(self)
        changes = self._index.counting(changes)
        index = after._index = self._index.changed(changes)
        names = {service_name(s, self.mesh.domain) for s in changes if isinstance(s, Service)}
        if names:
            after._names = {key: service_name(s, self.mesh.domain) for key, s in index.services.items()}
        policies = [o for o in changes.come.values() if isinstance(o, AuthorizationPolicy)]
        gone = self._gone(changes)
        after._authorizations = {n: p for n, p in self._authorizations.items() if n not in gone}
        after._authorizations |= self._authorized(p for p in policies if p.meta.key in index.policies)
        names |= {pod_uid(o, self.mesh.cluster_id) for o in changes if isinstance(o, Pod)}
        services: dict[Key, Service] = {}
        for made in changes:
            if isinstance(made, Service) and made.meta.key in index.services:
                services[made.meta.key] = index.services[made.meta.key]
            elif isinstance(made, Namespace):
                services.update((s.meta.key, s) for s in index.services_in(made.meta.name))
        pods = {p.meta.key: p for p in chain.from_iterable(map(index.pods_of, changes))}
        after._remake(self.snapshot, pods.values(), services.values(), names)
        return after

    def with_enrolled(self, enrolled: Enrolled) -> Composed:
        """The mesh after other reports of agents."""
        after = copy.copy(self)
        after.enrolled = enrolled
        after._captured = {node: frozenset(pods) for node, pods in enrolled.items()}
        turned: set[PodKey] = set()
        for node in self._captured.keys() | after._captured.keys():
            turned |= self._captured.get(node, frozenset()) ^ after._captured.get(node, frozenset())
        known = (self._index.pods.get(("Pod", *pod)) for pod in turned)
        after._remake(self.snapshot, [pod for pod in known if pod is not None], (), ())
        return after

    def _gone(self, changes: Changes) -> set[str]:
        return {
            policy_name(o, self.mesh) for o in changes.gone.values() if isinstance(o, AuthorizationPolicy)
        }

    def _remake(
        self, before: Snapshot, pods: Iterable[Pod], services: Iterable[Service], names: Iterable[str]
    ) -> None:
        """The snapshot, with these made anew, and those of the `names` gone that are not among them."""
        made = {r.name: r for r in map(self._workload, filter(is_announced, pods))}
        made.update((r.name, r) for r in map(self._service, services))
        self.snapshot = before.with_changes(made, [n for n in names if n not in made], self._policies())

    # -- single resources

    def _authorized(self, policies: Iterable[AuthorizationPolicy]) -> dict[str, Policy]:
        messages = (translate_policy(p, self.mesh) for p in policies)
        return {p.resource.name: p for p in map(_policy, messages)}

    def _policies(self) -> dict[str, Policy]:
        modes = map(_policy, self._index.modes.policies())
        return {p.resource.name: p for p in sorted((*self._authorizations.values(), *modes), key=_order)}

    def _service(self, service: Service) -> Resource:
        message = translate_service(
            service,
            self._index.namespaces.get(service.meta.namespace),
            self.mesh.domain,
            self._network,
        )
        aliases = tuple(str(NetworkAddress(self._network, ip)) for ip in service.cluster_ips or ())
        name = self._names[service.meta.key]
        return make_resource(name, wds.Address(service=message), aliases)

    def _workload(self, pod: Pod) -> Resource:
        policies = self._listed_policies(pod)
        services = pod_services(pod, self._index.services_of(pod), self._names)
        message = translate_pod(
            pod,
            cluster_id=self.mesh.cluster_id,
            trust_domain=self._trust_domain,
            network=self._network,
            is_enrolled=(pod.meta.namespace, pod.meta.name) in self._captured.get(pod.node, ()),
            services=services,
            policies=policies,
            node=self._index.nodes.get(pod.node),
        )
        aliases = tuple(str(NetworkAddress(self._network, ip)) for ip in pod.ips)
        uid = pod_uid(pod, self.mesh.cluster_id)
        return make_resource(
            uid,
            wds.Address(workload=message),
            aliases,
            frozenset(policies),
            tuple(sorted(services)),
            pod.node,
            message.tunnel_protocol == wds.NONE,
        )

    def _listed_policies(self, pod: Pod) -> list[str]:
        """Policies whose selector finds the pod, and the one for its mode."""
        names = sorted(policy_name(policy, self.mesh) for policy in self._index.policies_of(pod))
        mode = self._index.modes.policy_of(pod.meta.namespace, pod.meta.labels)
        return [*names, mode] if mode else names


def _policy(message: authz.Authorization) -> Policy:
    return Policy(make_resource(f"{message.namespace}/{message.name}", message), message)


def _order(policy: Policy) -> tuple[str, str]:
    return policy.message.namespace, policy.message.name
