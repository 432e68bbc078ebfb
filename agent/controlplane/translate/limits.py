"""Limits of a pod, by its annotation and by each ConnectionLimit that selects it, as its workload's extension. Pure.

All are sent; the node's proxy takes the lowest that is about a client (`agent.policy.limits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import ConnectionLimit, Pod
from agent.controlplane.translate.authorization_policy import match_of
from agent.controlplane.translate.mesh import Mesh
from agent.controlplane.translate.selection import by_namespace
from agent.model.limits import ANNOTATION, Limits
from agent.pb import workload_pb2 as wds
from agent.pb import ztun_pb2

TYPE_URL = "type.googleapis.com/ztun.v1.ConnectionLimits"


class ConnectionLimits:
    """All of a mesh, found by whom they are about."""

    def __init__(self, limits: Iterable[ConnectionLimit], mesh: Mesh) -> None:
        everything = sorted(limits, key=lambda limit: limit.meta.key)
        self._mesh = mesh
        self._selecting = by_namespace(
            (limit for limit in everything if limit.selector),
            lambda limit: limit.meta.namespace,
            lambda limit: limit.selector,
        )
        self._whole = [limit for limit in everything if not limit.selector]

    def of(self, pod: Pod) -> list[ConnectionLimit]:
        """Those that are about a pod."""
        spaces = {pod.meta.namespace, self._mesh.root_namespace, ""}
        found: dict[Key, ConnectionLimit] = {
            limit.meta.key: limit for limit in self._whole if limit.meta.namespace in spaces
        }
        for space in spaces & self._selecting.keys():
            found.update((limit.meta.key, limit) for limit in self._selecting[space].finds(pod.labels))
        return [found[key] for key in sorted(found)]


def add_limits(message: wds.Workload, pod: Pod, limits: Iterable[ConnectionLimit], mesh: Mesh) -> None:
    made = ztun_pb2.ConnectionLimits()
    if pod.limits is not None:
        # Not by the pod's name: what pods of one Deployment say alike, agents hold once.
        why = f" (refused until it is mended: {pod.limits_refused})" if pod.limits_refused else ""
        _put(made.limits.add(name=f"its annotation {ANNOTATION}{why}"), pod.limits)
    for limit in limits:
        why = " (refused until it is mended)" if limit.is_stand_in else ""
        put = made.limits.add(name=f"{limit.meta}{why}")
        _put(put, limit.limits)
        put.clients.extend(match_of(terms, mesh) for terms in limit.sources)
    if made.limits:
        extension = message.extensions.add(name=ANNOTATION)
        extension.config.type_url, extension.config.value = TYPE_URL, made.SerializeToString()


def _put(put: ztun_pb2.ConnectionLimit, limits: Limits) -> None:
    for field, value in _said(limits).items():
        setattr(put, field, value)


def _said(limits: Limits) -> Mapping[str, int]:
    said = {
        "connections": limits.connections,
        "new_per_second": limits.new_per_second,
        "bytes_per_second": limits.bytes_per_second,
    }
    return {field: value for field, value in said.items() if value is not None}
