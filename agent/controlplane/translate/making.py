"""The resources of one object of a mesh: names, messages, and what ties them to others. Pure.

Names, order of lists and the fields between objects (which services, policies and waypoints a workload has) follow
istiod (docs/WIRE.md#translation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.controlplane.read.mesh_objects import EndpointSlice, Gateway, ServiceEntry, WorkloadEntry
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Labelled, Object, Pod, Service
from agent.controlplane.translate import outsiders, ports
from agent.controlplane.translate.authorization_policy import policy_name
from agent.controlplane.translate.limits import add_limits
from agent.controlplane.translate.mesh_index import MeshIndex
from agent.controlplane.translate.networks import gateway_names, translate_gateway
from agent.controlplane.translate.outsiders import Whereabouts
from agent.controlplane.translate.pod import is_announced, pod_uid, translate_pod
from agent.controlplane.translate.ports import port_list
from agent.controlplane.translate.reach import Owner
from agent.controlplane.translate.resources import Resource, make_resource
from agent.controlplane.translate.service import service_name, translate_service
from agent.controlplane.translate.service_entry import aliases, host_name, translate_host
from agent.controlplane.translate.waypoints import bind_service, bind_workload
from agent.model.address import NetworkAddress, parse_ip
from agent.model.identity import DEFAULT_TRUST_DOMAIN
from agent.pb import workload_pb2 as wds

PodKey = tuple[str, str]
"""Namespace and name of a pod."""
Services = Mapping[str, wds.PortList]


class Making:
    """Of one index. `names` of Services are shared, as every workload of one holds it; `captured`: node -> pods."""

    def __init__(
        self, index: MeshIndex, names: Mapping[Key, str], captured: Mapping[str, frozenset[PodKey]]
    ) -> None:
        self._index, self._names, self._captured = index, names, captured
        mesh = index.mesh
        trust_domain = "" if mesh.trust_domain == DEFAULT_TRUST_DOMAIN else mesh.trust_domain
        self._where = Whereabouts(mesh.cluster_id, trust_domain, mesh.network, index.gateway_of)

    def names(self, made: Object) -> Iterator[str]:
        """The names of the resources of an object, and of some that it may have."""
        mesh = self._index.mesh
        match made:
            case Pod():
                yield pod_uid(made, mesh.cluster_id)
            case Service():
                yield service_name(made, mesh.domain)
            case WorkloadEntry():
                yield outsiders.workload_entry_uid(made, mesh.cluster_id)
            case ServiceEntry():
                # What another one has won is no name of this one.
                yield from (host_name(made, host) for host in self._index.hosts.of_entry(made))
                for endpoint, _ in outsiders.endpoints_of(made, made.hosts):
                    yield outsiders.entry_endpoint_uid(made, endpoint, mesh.cluster_id)
            case EndpointSlice():
                for each in made.endpoints:
                    yield outsiders.slice_endpoint_uid(made, each, mesh.cluster_id)
            case Gateway():
                yield from (name for name, _, _ in gateway_names(made))

    def resources(self, made: Owner) -> Iterator[Resource]:
        match made:
            case Pod():
                if is_announced(made):
                    yield self._pod(made)
            case Service():
                yield self._service(made)
            case WorkloadEntry():
                yield self._workload_entry(made)
            case ServiceEntry():
                yield from self._service_entry(made)
            case EndpointSlice():
                yield from self._slice(made)
            case Gateway():
                for message in translate_gateway(made, self._where.trust_domain):
                    yield self._workload(message, ())

    # -- services

    def _service(self, service: Service) -> Resource:
        mesh = self._index.mesh
        namespace = self._index.namespaces.get(service.meta.namespace)
        message = translate_service(service, namespace, mesh.domain, mesh.network)
        bind_service(message, service.meta, self._index.waypoints)
        addresses = tuple(str(NetworkAddress(mesh.network, ip)) for ip in service.cluster_ips or ())
        return make_resource(self._names[service.meta.key], wds.Address(service=message), addresses)

    def _service_entry(self, entry: ServiceEntry) -> Iterator[Resource]:
        index, network = self._index, self._index.mesh.network
        hosts = tuple(index.hosts.of_entry(entry))
        for host in hosts:
            message = translate_host(
                entry,
                host,
                index.namespaces.get(entry.meta.namespace),
                network,
                is_canonical=index.hosts.is_canonical(entry, host),
                is_private=index.hosts.is_private(entry),
            )
            bind_service(message, entry.meta, index.waypoints)
            names = tuple(aliases(entry, host, network))
            yield make_resource(host_name(entry, host), wds.Address(service=message), names)
        policies = self._listed_policies(entry) if hosts else []
        for endpoint, own in outsiders.endpoints_of(entry, hosts):
            pairs = port_list(ports.on_endpoint(entry, endpoint))
            services = {host_name(entry, host): pairs for host in own}
            made = outsiders.translate_entry_endpoint(entry, endpoint, self._where, services, policies)
            if endpoint in entry.endpoints:
                bind_workload(made, entry.meta, endpoint.labels, index.waypoints)
            yield self._workload(made, policies)

    # -- workloads

    def _pod(self, pod: Pod) -> Resource:
        policies = self._listed_policies(pod)
        message = translate_pod(
            pod,
            cluster_id=self._where.cluster_id,
            trust_domain=self._where.trust_domain,
            network=self._where.network,
            is_enrolled=(pod.meta.namespace, pod.meta.name) in self._captured.get(pod.node, ()),
            services=self._pod_services(pod),
            policies=policies,
            node=self._index.nodes.get(pod.node),
            network_gateway=self._where.gateways.get(self._where.network),
        )
        bind_workload(message, pod.meta, pod.labels, self._index.waypoints)
        add_limits(message, pod, self._index.limits.of(pod), self._index.mesh)
        return self._workload(message, policies)

    def _pod_services(self, pod: Pod) -> Services:
        found: dict[str, wds.PortList] = {}
        for service in self._index.services_of(pod):
            for name in self._service_names(service):
                found[name] = port_list(ports.on_pod(service, pod))
        for each, piece in self._index.slices_of(pod):
            found[self._names[each.meta.key]] = port_list(ports.on_slice(each, piece))
        return found

    def _workload_entry(self, entry: WorkloadEntry) -> Resource:
        policies = self._listed_policies(entry)
        services: dict[str, wds.PortList] = {}
        for service in self._index.services_of(entry):
            for name in self._service_names(service):
                services[name] = port_list(ports.on_workload_entry(service, entry))
        message = outsiders.translate_workload_entry(entry, self._where, services, policies)
        bind_workload(message, entry.meta, entry.labels, self._index.waypoints)
        return self._workload(message, policies)

    def _slice(self, found: EndpointSlice) -> Iterator[Resource]:
        """Its endpoints that are no pods, if there is such a Service."""
        service = self._index.service_of(found)
        if service is None:
            return
        services = {self._names[service.meta.key]: port_list(ports.on_slice(service, found))}
        for endpoint in found.endpoints:
            if endpoint.pod is None:
                made = outsiders.translate_slice_endpoint(found, endpoint, self._where, services)
                yield self._workload(made, ())

    def _service_names(self, service: Service | ServiceEntry) -> Iterator[str]:
        if isinstance(service, Service):
            yield self._names[service.meta.key]
        else:
            yield from (host_name(service, host) for host in self._index.hosts.of_entry(service))

    def _listed_policies(self, workload: Labelled) -> list[str]:
        """Policies whose selector finds the workload, and the one for its mode."""
        mesh, index = self._index.mesh, self._index
        names = sorted(policy_name(policy, mesh) for policy in index.policies_of(workload))
        mode = index.modes.policy_of(workload.meta.namespace, workload.labels)
        return [*names, mode] if mode else names

    def _workload(self, message: wds.Workload, policies: list[str] | tuple[str, ...]) -> Resource:
        network = message.network
        aliases_of = tuple(str(NetworkAddress(network, parse_ip(ip))) for ip in message.addresses)
        return make_resource(
            message.uid,
            wds.Address(workload=message),
            aliases_of,
            frozenset(policies),
            tuple(sorted(message.services)),
            message.node,
            message.tunnel_protocol == wds.NONE,
        )
