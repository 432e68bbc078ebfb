"""What a name means in the mesh, for one pod: addresses, that there are none, or nothing: then somebody else is to be
asked. Pure.

Services that have virtual addresses are answered by these, those of Kubernetes that have none (headless) by their
endpoints, and the pods behind such a one by their own names below it. Which of several Services a name means is decided
as for connections (`state.snapshot`), with one more preference that is for names alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.dns.names import candidates, wildcards
from agent.model.address import IP
from agent.model.service import IPFamilies, Service
from agent.model.workload import Health, Workload
from agent.state.snapshot import Snapshot, best_of

VERSIONS = {IPFamilies.IPV4_ONLY: 4, IPFamilies.IPV6_ONLY: 6}


@dataclass(frozen=True, slots=True)
class Meaning:
    """`addresses` of the asked family; none: the name is there, and has none of it. `alias`: the name they are under,
    where that is not the one that was asked for."""

    addresses: tuple[IP, ...]
    alias: str = ""


@dataclass(frozen=True, slots=True)
class MeshNames:
    """`domain` of the cluster. `preferred_namespace`: whose Service is meant where several have a host name."""

    domain: str
    preferred_namespace: str = ""

    def meaning(self, snapshot: Snapshot, client: Workload, name: str, version: int) -> Meaning | None:
        """None: the mesh does not know the name. `name`: lower case, no dot at its end."""
        for candidate in candidates(name, client.namespace, self.domain):
            service = self._service(snapshot, client.namespace, candidate.name)
            if service is not None:
                found = self._addresses(snapshot, client, service, version)
                return Meaning(found, candidate.stripped)
            pods = self._pods(snapshot, client.namespace, candidate.name)
            if pods:
                return Meaning(of_version((pod.addresses for pod in pods), version), candidate.stripped)
            for wildcard in wildcards(candidate.name):
                service = self._service(snapshot, client.namespace, wildcard)
                if service is not None:
                    # Under the name that was asked for: whatever is before the rest is no other name of it.
                    return Meaning(self._addresses(snapshot, client, service, version))
        return None

    def _service(self, snapshot: Snapshot, namespace: str, hostname: str) -> Service | None:
        named = snapshot.services.with_hostname(hostname)
        if not named:
            return None
        answerable = (service for service in named if service.vips or self._is_of_cluster(service))
        return best_of(answerable, namespace, self.preferred_namespace)

    def _is_of_cluster(self, service: Service) -> bool:
        return service.hostname.endswith(f".svc.{self.domain}")

    def _addresses(
        self, snapshot: Snapshot, client: Workload, service: Service, version: int
    ) -> tuple[IP, ...]:
        if VERSIONS.get(service.ip_families, version) != version:
            return ()
        if service.vips:
            return of_version(([vip.ip] for vip in service.vips if vip.network == client.network), version)
        ends = (endpoint.workload.addresses for endpoint in snapshot.endpoints(service.key).all)
        return of_version(ends, version)

    def _pods(self, snapshot: Snapshot, namespace: str, name: str) -> list[Workload]:
        """A pod by its own name below that of a headless Service of the cluster whose endpoint it is."""
        pod, _, hostname = name.partition(".")
        if not hostname.endswith(f".svc.{self.domain}"):
            return []
        service = self._service(snapshot, namespace, hostname)
        if service is None or service.vips:
            return []
        return [
            workload
            for workload in snapshot.workloads_named(service.namespace, pod)
            if service.key in workload.services and workload.status is Health.HEALTHY
        ]


def of_version(ends: Iterable[Iterable[IP]], version: int) -> tuple[IP, ...]:
    """Of each the first address of the family; none twice."""
    found: dict[IP, None] = {}
    for addresses in ends:
        ip = next((ip for ip in addresses if ip.version == version), None)
        if ip is not None:
            found[ip] = None
    return tuple(found)
