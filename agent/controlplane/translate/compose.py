"""The whole mesh: an Inventory and the set of captured pods, to the Snapshot that is served. Pure.

Composes the translations of single kinds; names, order of lists and the fields between objects (which Services and
policies a workload has) follow istiod (docs/WIRE.md#translation).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import AuthorizationPolicy, Pod, Service
from agent.controlplane.translate.authorization_policy import (
    policy_name,
    translate_policy,
    unjudged,
    why_left_out,
)
from agent.controlplane.translate.peer_authentication import (
    STATIC_STRICT,
    requires_tls,
    selects,
    static_strict,
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """What is true of the whole mesh."""

    cluster_id: str = "Kubernetes"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    domain: str = "cluster.local"
    root_namespace: str = "istio-system"


def trust_domain(inventory: Inventory, settings: MeshSettings) -> str:
    """That of the mesh config, if the root namespace has one, else the setting."""
    said = [c.trust_domain for c in inventory.mesh_configs if c.meta.namespace == settings.root_namespace]
    return next(filter(None, said), settings.trust_domain)


def warnings(inventory: Inventory) -> Iterator[str]:
    """What the manifests ask for and node proxies will not do."""
    for policy in inventory.policies:
        reason = why_left_out(policy) or unjudged(policy)
        if reason:
            yield f"{policy.meta.place}: {policy.meta}: {reason}"


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
        self._inventory, self._enrolled, self._settings = inventory, enrolled, settings
        domain = trust_domain(inventory, settings)
        self._trust_domain = "" if domain == DEFAULT_TRUST_DOMAIN else domain
        root = inventory.namespaces.get(settings.root_namespace)
        self._network = root.meta.labels.get(NETWORK_LABEL, "") if root else ""
        self._policies = [p for p in inventory.policies if why_left_out(p) is None]
        self._services: dict[str, list[Service]] = defaultdict(list)
        self._selecting: dict[str, list[AuthorizationPolicy]] = defaultdict(list)
        for service in inventory.services:
            if service.kind != "ExternalName":
                self._services[service.meta.namespace].append(service)
        for policy in self._policies:
            if policy.selector:
                self._selecting[policy.meta.namespace].append(policy)

    def snapshot(self) -> Snapshot:
        addresses = [self._workload(pod) for pod in self._inventory.pods if is_announced(pod)]
        for services in self._services.values():
            addresses.extend(map(self._service, services))
        return Snapshot(
            {r.name: r for r in sorted(addresses, key=lambda r: r.name)},
            {p.resource.name: p for p in self._authorizations()},
        )

    def _authorizations(self) -> Iterator[Policy]:
        root = self._settings.root_namespace
        messages: list[authz.Authorization] = [translate_policy(p, root) for p in self._policies]
        if self._inventory.peer_authentications:
            messages.append(static_strict(root))
        for message in sorted(messages, key=lambda m: (m.namespace, m.name)):
            yield Policy(make_resource(f"{message.namespace}/{message.name}", message), message)

    def _service(self, service: Service) -> Resource:
        message = translate_service(
            service,
            self._inventory.namespaces.get(service.meta.namespace),
            self._settings.domain,
            self._network,
        )
        aliases = tuple(str(NetworkAddress(self._network, ip)) for ip in service.cluster_ips or ())
        name = service_name(service, self._settings.domain)
        return make_resource(name, wds.Address(service=message), aliases)

    def _workload(self, pod: Pod) -> Resource:
        policies = self._listed_policies(pod)
        namespace, name = pod.meta.namespace, pod.meta.name
        message = translate_pod(
            pod,
            cluster_id=self._settings.cluster_id,
            trust_domain=self._trust_domain,
            network=self._network,
            is_enrolled=(namespace, name) in self._enrolled.get(pod.node, ()),
            services=pod_services(pod, self._services[namespace], self._settings.domain),
            policies=policies,
            node=self._inventory.nodes.get(pod.node),
        )
        aliases = tuple(str(NetworkAddress(self._network, ip)) for ip in pod.ips)
        uid = pod_uid(pod, self._settings.cluster_id)
        return make_resource(uid, wds.Address(workload=message), aliases, frozenset(policies))

    def _listed_policies(self, pod: Pod) -> list[str]:
        """Policies whose selector finds the pod: of its namespace and of the root namespace (for all namespaces)."""
        root = self._settings.root_namespace
        names = sorted(
            policy_name(policy)
            for namespace in {pod.meta.namespace, root}
            for policy in self._selecting.get(namespace, ())
            if policy.selector and selects(policy.selector, pod.meta.labels)
        )
        peers = self._inventory.peer_authentications
        if requires_tls(peers, root, pod.meta.namespace, pod.meta.labels):
            names.append(f"{root}/{STATIC_STRICT}")
        return names
