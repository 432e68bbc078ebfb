"""The whole mesh: an Inventory and the set of captured pods, to the Snapshot that is served. Pure.

Composes the translations of single kinds; names, order of lists and the fields between objects (which Services and
policies a workload has) follow istiod (docs/WIRE.md#translation).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import Pod, Service
from agent.controlplane.translate.authorization_policy import policy_name, translate_policy, why_left_out
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from agent.controlplane.translate.peer_authentication import PeerAuthentications
from agent.controlplane.translate.pod import is_announced, pod_services, pod_uid, translate_pod
from agent.controlplane.translate.resources import Policy, Resource, Snapshot, make_resource
from agent.controlplane.translate.selection import by_namespace
from agent.controlplane.translate.service import service_name, translate_service
from agent.model.address import NetworkAddress
from agent.model.identity import DEFAULT_TRUST_DOMAIN
from agent.pb import workload_pb2 as wds

NETWORK_LABEL = "topology.istio.io/network"
PodKey = tuple[str, str]
"""Namespace and name of a pod."""


def translate(
    inventory: Inventory, enrolled: Mapping[str, Collection[PodKey]], settings: MeshSettings
) -> Snapshot:
    """Everything served. `enrolled`: node -> the pods its agent says it captures."""
    return _Translation(inventory, enrolled, settings).snapshot()


class _Translation:
    """One run; the indexes that several workloads need are made once."""

    def __init__(
        self, inventory: Inventory, enrolled: Mapping[str, Collection[PodKey]], settings: MeshSettings
    ) -> None:
        mesh = self._mesh = mesh_of(inventory, settings)
        inventory = self._inventory = discovered(inventory, mesh)
        self._enrolled = enrolled
        self._trust_domain = "" if mesh.trust_domain == DEFAULT_TRUST_DOMAIN else mesh.trust_domain
        system = inventory.namespaces.get(mesh.system_namespace)
        self._network = system.meta.labels.get(NETWORK_LABEL, "") if system else ""
        self._policies = [p for p in inventory.policies if why_left_out(p) is None]
        self._peers = PeerAuthentications(inventory.peer_authentications, mesh.root_namespace)
        self._services = [s for s in inventory.services if s.kind != "ExternalName"]
        # Made once: every workload of a Service holds its name.
        self._names = {s.meta.key: service_name(s, mesh.domain) for s in self._services}
        self._selecting_services = by_namespace(
            self._services, lambda s: s.meta.namespace, lambda s: s.selector
        )
        self._selecting_policies = by_namespace(
            self._policies, lambda p: p.meta.namespace, lambda p: p.selector
        )

    def snapshot(self) -> Snapshot:
        addresses = [self._workload(pod) for pod in self._inventory.pods if is_announced(pod)]
        addresses.extend(map(self._service, self._services))
        return Snapshot(
            {r.name: r for r in sorted(addresses, key=lambda r: r.name)},
            {p.resource.name: p for p in self._authorizations()},
        )

    def _authorizations(self) -> Iterator[Policy]:
        messages = [translate_policy(p, self._mesh) for p in self._policies] + list(self._peers.policies())
        for message in sorted(messages, key=lambda m: (m.namespace, m.name)):
            yield Policy(make_resource(f"{message.namespace}/{message.name}", message), message)

    def _service(self, service: Service) -> Resource:
        message = translate_service(
            service,
            self._inventory.namespaces.get(service.meta.namespace),
            self._mesh.domain,
            self._network,
        )
        aliases = tuple(str(NetworkAddress(self._network, ip)) for ip in service.cluster_ips or ())
        name = self._names[service.meta.key]
        return make_resource(name, wds.Address(service=message), aliases)

    def _workload(self, pod: Pod) -> Resource:
        policies = self._listed_policies(pod)
        namespace, name = pod.meta.namespace, pod.meta.name
        selecting = self._selecting_services.get(namespace)
        chosen = selecting.finds(pod.meta.labels) if selecting else ()
        services = pod_services(pod, chosen, self._names)
        message = translate_pod(
            pod,
            cluster_id=self._mesh.cluster_id,
            trust_domain=self._trust_domain,
            network=self._network,
            is_enrolled=(namespace, name) in self._enrolled.get(pod.node, ()),
            services=services,
            policies=policies,
            node=self._inventory.nodes.get(pod.node),
        )
        aliases = tuple(str(NetworkAddress(self._network, ip)) for ip in pod.ips)
        uid = pod_uid(pod, self._mesh.cluster_id)
        return make_resource(
            uid, wds.Address(workload=message), aliases, frozenset(policies), tuple(services), pod.node
        )

    def _listed_policies(self, pod: Pod) -> list[str]:
        """Policies whose selector finds the pod: of its namespace and of the root namespace (for all namespaces)."""
        names = sorted(
            policy_name(policy, self._mesh)
            for namespace in {pod.meta.namespace, self._mesh.root_namespace}
            if namespace in self._selecting_policies
            for policy in self._selecting_policies[namespace].finds(pod.meta.labels)
        )
        mode = self._peers.policy_of(pod.meta.namespace, pod.meta.labels)
        return [*names, mode] if mode else names
