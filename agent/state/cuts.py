"""What of a workload and of a service is its own, and what it says as many others do; see `shelf`.

Own are name, uid and addresses of a workload, name, hostname and virtual IPs of a service. A uid and a hostname that
follow from the rest, as those of Kubernetes do, are not kept at all.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

from agent.model.address import IP, NetworkAddress
from agent.model.service import Service
from agent.model.workload import Locality, Workload
from agent.state.shelf import Parts


class WorkloadCut:
    """Its place is node and locality. `second` is the uid, where it is not that of a pod of this name."""

    def apart(self, workload: Workload) -> Parts:
        w = workload
        uid = "" if w.uid == pod_uid(w.cluster_id, w.namespace, w.name) else w.uid
        return Parts(
            Workload(
                "",
                "",
                w.namespace,
                (),
                w.network,
                w.protocol,
                w.trust_domain,
                w.service_account,
                w.waypoint,
                w.network_gateway,
                "",
                w.canonical_name,
                w.canonical_revision,
                w.workload_type,
                w.workload_name,
                w.native_tunnel,
                w.authorization_policies,
                w.status,
                w.cluster_id,
                w.hostname,
                w.services,
                w.application_tunnel,
                NOWHERE,
                w.host_network,
                w.capacity,
                w.limits,
            ),
            (w.node, w.locality),
            w.addresses,
            w.name,
            uid,
        )

    def together(
        self,
        shape: Workload,
        place: tuple[Hashable, ...],
        addresses: tuple[IP, ...],
        name: str,
        second: str,
    ) -> Workload:
        return Workload(
            second or pod_uid(shape.cluster_id, shape.namespace, name),
            name,
            shape.namespace,
            addresses,
            shape.network,
            shape.protocol,
            shape.trust_domain,
            shape.service_account,
            shape.waypoint,
            shape.network_gateway,
            cast("str", place[0]),
            shape.canonical_name,
            shape.canonical_revision,
            shape.workload_type,
            shape.workload_name,
            shape.native_tunnel,
            shape.authorization_policies,
            shape.status,
            shape.cluster_id,
            shape.hostname,
            shape.services,
            shape.application_tunnel,
            cast("Locality", place[1]),
            shape.host_network,
            shape.capacity,
            shape.limits,
        )


class ServiceCut:
    """Its place is its namespace and the network of its virtual IPs. `second` is the hostname, where it is not the
    one that Kubernetes gives. Virtual IPs of several networks stay in the shape."""

    def apart(self, service: Service) -> Parts:
        networks = {vip.network for vip in service.vips}
        is_own = len(networks) <= 1
        hostname = (
            "" if service.hostname == cluster_hostname(service.name, service.namespace) else service.hostname
        )
        return Parts(
            Service(
                "",
                "",
                "",
                () if is_own else service.vips,
                service.cidr_vips,
                service.ports,
                service.subject_alt_names,
                service.waypoint,
                service.weighted_waypoints,
                service.load_balancing,
                service.ip_families,
                service.canonical,
                service.visibility,
            ),
            (service.namespace, *networks) if is_own else (service.namespace,),
            tuple(vip.ip for vip in service.vips) if is_own else (),
            service.name,
            hostname,
        )

    def together(
        self,
        shape: Service,
        place: tuple[Hashable, ...],
        addresses: tuple[IP, ...],
        name: str,
        second: str,
    ) -> Service:
        namespace = cast("str", place[0])
        vips = tuple(NetworkAddress(cast("str", place[1]), ip) for ip in addresses) or shape.vips
        hostname = second or cluster_hostname(name, namespace)
        return Service(
            name,
            namespace,
            hostname,
            vips,
            shape.cidr_vips,
            shape.ports,
            shape.subject_alt_names,
            shape.waypoint,
            shape.weighted_waypoints,
            shape.load_balancing,
            shape.ip_families,
            shape.canonical,
            shape.visibility,
        )


NOWHERE = Locality()


def pod_uid(cluster: str, namespace: str, name: str) -> str:
    """As istiod names pods."""
    return f"{cluster}//Pod/{namespace}/{name}"


def cluster_hostname(name: str, namespace: str) -> str:
    """As Kubernetes names services."""
    return f"{name}.{namespace}.svc.cluster.local"
