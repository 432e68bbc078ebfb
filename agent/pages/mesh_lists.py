"""`/policies` and `/services`: what the control plane said of them, as this node judges and routes by it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json
from agent.model.policy import Authorization, Scope
from agent.model.service import Service
from agent.model.workload import Workload
from agent.policy.missing import CONVERTED_PREFIX, CONVERTED_STRICT
from agent.state.snapshot import Snapshot
from agent.state.store import Store


@dataclass(frozen=True, slots=True)
class PoliciesPage:
    store: Store

    async def __call__(self, _: Request) -> Response:
        snapshot = self.store.current
        here = tuple(snapshot.local_workloads())
        rows = [
            {
                "policy": policy.key,
                "scope": policy.scope.value,
                "action": policy.action.value,
                "rules": len(policy.rules),
                "dry_run": policy.dry_run,
                "from": _origin(policy),
                "pods": _judged_here(here, resource, policy),
            }
            for resource, policy in sorted(snapshot.policies.items(), key=lambda item: item[1].key)
        ]
        return as_json({"policies": rows})


@dataclass(frozen=True, slots=True)
class ServicesPage:
    store: Store

    async def __call__(self, _: Request) -> Response:
        snapshot = self.store.current
        services = sorted(snapshot.services.values(), key=lambda each: (each.namespace, each.hostname))
        return as_json({"services": [_service(snapshot, service) for service in services]})


def _origin(policy: Authorization) -> str:
    """The object that somebody wrote: a PeerAuthentication comes as a policy that denies peers without identity."""
    if policy.name == CONVERTED_STRICT:
        return "PeerAuthentication, STRICT"
    if policy.name.startswith(CONVERTED_PREFIX):
        return f"PeerAuthentication {policy.namespace}/{policy.name.removeprefix(CONVERTED_PREFIX)}"
    return f"AuthorizationPolicy {policy.namespace}/{policy.name}"


def _judged_here(here: tuple[Workload, ...], resource: str, policy: Authorization) -> list[str]:
    """The pods of this node whose connections it judges."""

    def is_judged(workload: Workload) -> bool:
        if policy.scope is Scope.WORKLOAD_SELECTOR:
            return resource in workload.authorization_policies
        return policy.scope is Scope.GLOBAL or policy.namespace == workload.namespace

    return sorted(f"{workload.namespace}/{workload.name}" for workload in here if is_judged(workload))


def _service(snapshot: Snapshot, service: Service) -> dict[str, object]:
    endpoints = snapshot.endpoints(service.key).all
    return {
        "service": f"{service.namespace}/{service.name}",
        "hostname": service.hostname,
        "vips": service.listed_vips,
        "ports": {str(port): target or None for port, target in sorted(service.ports.items())},
        "waypoint": str(service.waypoint) if service.waypoint is not None else "",
        "endpoints": sorted(f"{each.workload.namespace}/{each.workload.name}" for each in endpoints),
    }
