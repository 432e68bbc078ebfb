"""What limits ask for and nobody does, or not as it seems. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import EVERYWHERE, ConnectionLimit
from agent.controlplane.read.remarks import Remark, Scope
from agent.controlplane.translate.authorization_policy import PRINCIPALS
from agent.controlplane.translate.mesh import Mesh
from agent.controlplane.translate.remarking import remark
from agent.controlplane.translate.sources import of_other_domains
from agent.model.limits import ANNOTATION, CONNECTIONS, EXAMPLE

LEAVE_OUT = f"leave {CONNECTIONS} out where any number may be open"


def limit_remarks(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    for limit in inventory.connection_limits:
        is_everywhere = limit.meta.namespace in (EVERYWHERE, mesh.root_namespace)
        scope = Scope(None if is_everywhere else limit.meta.namespace, limit.selector or None)
        for doubt in limit.doubts:
            yield remark(limit, doubt, scope=scope)
        yield from of_other_domains(limit, _principals(limit), mesh, scope)
        if limit.limits.connections == 0 and not limit.is_stand_in:
            whom = "none of these clients" if limit.sources else "nobody"
            yield remark(
                limit,
                f"0 lets {whom} in, at {_where(scope)}",
                LEAVE_OUT,
                field="spec.connections",
                is_note=True,
            )
    for pod in inventory.pods:
        if pod.limits_refused:
            yield remark(
                pod,
                f"{pod.limits_refused}: it lets in no new connection until that is mended",
                f"write e.g. {EXAMPLE}, or take the annotation off",
                Scope(node=pod.node),
                field=f"metadata.annotations.{ANNOTATION}",
            )
        elif pod.limits is not None and pod.limits.connections == 0:
            field = f"metadata.annotations.{ANNOTATION}"
            yield remark(pod, f"{CONNECTIONS}=0 lets nobody in", LEAVE_OUT, field=field, is_note=True)


def _where(scope: Scope) -> str:
    if scope.selector:
        return "the pods it selects"
    return f"all pods of namespace {scope.namespace}" if scope.namespace else "all pods of the mesh"


def _principals(limit: ConnectionLimit) -> Iterator[tuple[str, str]]:
    for index, terms in enumerate(limit.sources):
        for name in PRINCIPALS:
            yield from ((f"spec.from[{index}].source", text) for text in terms.strings.get(name, ()))
