"""Pods of this node and their connections as ztunnel dumps them (`workloadState`) and istioctl reads them. Pure.

Connections are the rows of `/connections`, which workers answer; those of several workers are one list here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

UP, PENDING = "Up", "Pending"
PROTOCOLS = {"TCP-PASSTHROUGH": "TCP"}
"""Words of ours that ztunnel does not have."""
ON_NO_WAY = frozenset({"WAITING", "SOCKS5"})
"""Instead of a protocol, of connections that lead nowhere yet: ztunnel lists none of those."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodFact:
    """`uid`: the one Kubernetes gave it, where that is known. `state`: UP while it is served."""

    namespace: str
    name: str
    state: str
    uid: str = ""
    service_account: str = ""
    trust_domain: str = ""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def workload_state(pods: Iterable[PodFact], connections: Iterable[Mapping[str, str]]) -> dict[str, Row]:
    """By uid, or `namespace/name` where nobody knows one."""
    sides: defaultdict[str, dict[str, list[Row]]] = defaultdict(lambda: {"inbound": [], "outbound": []})
    for row in connections:
        if row["protocol"] not in ON_NO_WAY:
            sides[row["pod"]][row["direction"]].append(_connection(row))
    return {pod.uid or pod.key: _pod(pod, sides.get(pod.key)) for pod in pods}


def _pod(pod: PodFact, connections: dict[str, list[Row]] | None) -> Row:
    info = {"name": pod.name, "namespace": pod.namespace, "serviceAccount": pod.service_account}
    if pod.trust_domain:
        info["trustDomain"] = pod.trust_domain
    return {
        "state": pod.state,
        **({"connections": connections} if connections is not None else {}),
        "info": info,
    }


def _connection(row: Mapping[str, str]) -> Row:
    """`originalDst`: what the client asked for. Of an inbound one that is the Service, where its client's node says so.

    ztunnel says null where nobody says so, and a column of istioctl stays blank.
    """
    asked_for = row["original_dst"]
    if row["direction"] == "inbound":
        asked_for = row.get("service") or asked_for
    return {
        "src": row["src"],
        "originalDst": asked_for,
        "actualDst": row["actual_dst"],
        "protocol": PROTOCOLS.get(row["protocol"], row["protocol"]),
    }
