"""What limits ask for and nobody does, or not as it seems. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import EVERYWHERE, ConnectionLimit
from agent.controlplane.read.remarks import Remark, Scope
from agent.controlplane.translate.authorization_policy import PRINCIPALS, is_of_another_domain
from agent.controlplane.translate.mesh import Mesh
from agent.controlplane.translate.remarking import remark
from agent.model.limits import ANNOTATION, EXAMPLE


def limit_remarks(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    for limit in inventory.connection_limits:
        is_everywhere = limit.meta.namespace in (EVERYWHERE, mesh.root_namespace)
        scope = Scope(None if is_everywhere else limit.meta.namespace, limit.selector or None)
        for doubt in limit.doubts:
            yield remark(limit, doubt, scope=scope)
        for path, text in _principals(limit):
            if is_of_another_domain(text, mesh):
                here = ", ".join(mesh.trust_domains)
                yield remark(
                    limit,
                    f"nobody can be {text!r}: the trust domain here is {here}",
                    f"write {mesh.trust_domain}/ns/NAMESPACE/sa/ACCOUNT",
                    scope,
                    field=path,
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


def _principals(limit: ConnectionLimit) -> Iterator[tuple[str, str]]:
    for index, terms in enumerate(limit.sources):
        for name in PRINCIPALS:
            yield from ((f"spec.from[{index}].source", text) for text in terms.strings.get(name, ()))
