"""The pods this node captures, by address: whose connection a listener has just accepted.

The kernel side guarantees the address (anti-spoof by interface); the control process says which enrolled
pod has it. The workload behind it comes from the snapshot by namespace, name and service account, never by
address alone (docs/WIRE.md#outbound).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.model.address import IP, parse_ip
from agent.model.outcome import Outcome, Refusal
from agent.model.workload import Workload
from agent.state.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class LocalPod:
    """An enrolled pod of this node."""

    namespace: str
    name: str
    service_account: str
    addresses: tuple[IP, ...]

    @property
    def owner(self) -> tuple[str, str, str]:
        """Who it is, whatever addresses it has just now."""
        return self.namespace, self.name, self.service_account

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def from_message(rows: Iterable[Sequence[Any]]) -> tuple[LocalPod, ...]:
    """Pods from the fields of a channel.Pods message, which are lists once they came over the channel."""
    return tuple(LocalPod(ns, name, account, tuple(map(parse_ip, ips))) for ns, name, account, ips in rows)


def departed(before: Iterable[LocalPod], after: Iterable[LocalPod]) -> frozenset[IP]:
    """The addresses whose pod is gone: nobody has them any more, or another pod has."""
    heirs = {address: pod.owner for pod in after for address in pod.addresses}
    return frozenset(ip for pod in before for ip in pod.addresses if heirs.get(ip) != pod.owner)


class LocalPods:
    """The current set; replaced as a whole."""

    def __init__(self) -> None:
        self._by_address: Mapping[IP, LocalPod] = {}

    def replace(self, pods: Iterable[LocalPod]) -> None:
        self._by_address = {address: pod for pod in pods for address in pod.addresses}

    def at(self, address: IP) -> LocalPod | None:
        return self._by_address.get(address)

    def workload(self, snapshot: Snapshot, address: IP, *, is_source: bool) -> Workload:
        """The workload of the enrolled pod at this address. Raises Refusal when either is unknown."""
        outcome = Outcome.UNKNOWN_SOURCE if is_source else Outcome.UNKNOWN_DESTINATION_WORKLOAD
        pod = self._by_address.get(address)
        if pod is None:
            raise Refusal(outcome, f"{address} belongs to no enrolled pod of this node")
        workload = snapshot.local_workload(pod.namespace, pod.name, pod.service_account)
        if workload is None:
            raise Refusal(
                outcome, f"the control plane does not list pod {pod} (account {pod.service_account})"
            )
        if address not in workload.addresses:
            raise Refusal(outcome, f"the control plane lists pod {pod} without the address {address}")
        return workload
