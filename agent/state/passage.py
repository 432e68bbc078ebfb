"""Whether a connection to a pod has come through the waypoint that the pod is to be reached by (`--enforce-waypoint`).

Asked at the destination, after policy (docs/OPERATIONS.md#waypoints). A waypoint is known by what it proves, the
identity of one of its instances; what a peer says of itself (`forwarded`, an address) decides nothing.
"""

from __future__ import annotations

from agent.model.connection import Connection
from agent.model.identity import Identity
from agent.model.workload import GatewayAddress, Workload
from agent.state.snapshot import Snapshot
from agent.state.waypoint import instances, is_instance, waypoints_of


def bypassed(snapshot: Snapshot, connection: Connection, workload: Workload, *, is_open: bool = False) -> str:
    """Why the connection has not come as it must; empty where it has, or where any way will do.

    `is_open`: it was let in before, and an instance that is not healthy any more may finish what it carries.
    """
    waypoints = demanded(snapshot, workload, connection.destination.port)
    if not waypoints or any(is_instance(snapshot, workload, waypoint) for waypoint in waypoints):
        return ""  # a waypoint is reached by everybody
    identity = connection.identity
    if identity is not None and any(
        instance.identity == identity
        for waypoint in waypoints
        for instance in instances(snapshot, waypoint, workload.namespace, everyone=is_open)
    ):
        return ""
    names = " or ".join(dict.fromkeys(map(str, waypoints)))
    who = "plaintext" if identity is None else str(identity)
    return f"{workload.namespace}/{workload.name} is reached through waypoint {names} only, and this is {who}"


def demanded(snapshot: Snapshot, workload: Workload, port: int) -> tuple[GatewayAddress, ...]:
    """The waypoints of the pod, and those of its Services that lead to this port of it."""
    found = list(waypoints_of(workload))
    for key, ports in workload.services.items():
        service = snapshot.services.get(key)
        if service is not None and port in ports.values():
            found += waypoints_of(service)
    return tuple(found)


class Passages:
    """The answers for connections that are open, by one snapshot: those that look alike are asked about once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._known: dict[tuple[str, int, Identity | None], str] = {}

    def bypassed(self, connection: Connection, uid: str) -> str:
        """As above, for a workload by its uid; one that is not known any more is not judged here."""
        alike = uid, connection.destination.port, connection.identity
        reason = self._known.get(alike)
        if reason is None:
            workload = self._snapshot.workloads.get(uid)
            reason = "" if workload is None else bypassed(self._snapshot, connection, workload, is_open=True)
            self._known[alike] = reason
        return reason
