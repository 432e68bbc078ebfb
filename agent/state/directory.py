"""All workloads and all services of one moment, and the indexes by which they are found: rows of a shelf, in tables.

Immutable; `Draft` makes the next from copies. Whoever asks for one gets it, made when it is asked for; walking over all
of them makes each anew. Values come in the order in which the control plane last changed them.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.address import NamespacedHostname, NetworkAddress
from agent.model.service import Service
from agent.model.table import Table
from agent.model.workload import TunnelProtocol, Workload
from agent.state.cuts import ServiceCut, WorkloadCut
from agent.state.shelf import Shelf


class Workloads:
    """Workloads by uid, as a mapping; and the tables of the other names they are found by."""

    def __init__(self) -> None:
        self.shelf: Shelf[Workload] = Shelf(WorkloadCut())
        self.live_bytes = 0
        """Of the rows in the tables."""
        self.by_uid, self.by_address, self.by_name, self.by_hostname = Table(), Table(), Table(), Table()

    def __len__(self) -> int:
        return len(self.by_uid)

    def __iter__(self) -> Iterator[str]:
        """In no order."""
        for row in self.by_uid:
            yield self.shelf.made(row).uid

    def __contains__(self, uid: object) -> bool:
        return isinstance(uid, str) and self.held(uid) is not None

    def __getitem__(self, uid: str) -> Workload:
        workload = self.get(uid)
        if workload is None:
            raise KeyError(uid)
        return workload

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, in the same order; a mapping need not have that."""
        if isinstance(other, Workloads):
            return list(self.values()) == list(other.values())
        return dict(self.items()) == other

    def __hash__(self) -> int:
        return len(self)

    def get(self, uid: str) -> Workload | None:
        for row in self.by_uid.rows(hash(uid)):
            workload = self.shelf.at(row)
            if workload.uid == uid:
                return workload
        return None

    def keys(self) -> frozenset[str]:
        return frozenset(self)

    def values(self) -> Iterator[Workload]:
        for row in sorted(self.by_uid):
            yield self.shelf.made(row)

    def items(self) -> Iterator[tuple[str, Workload]]:
        for workload in self.values():
            yield workload.uid, workload

    def some(self) -> Workload | None:
        """One of them."""
        row = next(iter(self.by_uid), 0)
        return self.shelf.at(row) if row else None

    def on_node(self, node: str) -> Iterator[Workload]:
        """Those that are there."""
        for row in self.by_uid:
            if self.shelf.place(row)[0] == node:
                yield self.shelf.made(row)

    def announced(self) -> Iterator[str]:
        """`namespace/name` of those that are reached by HBONE."""
        for row in self.by_uid:
            shape = self.shelf.shape(row)
            if shape.protocol is TunnelProtocol.HBONE:
                yield f"{shape.namespace}/{self.shelf.name(row)}"

    def may_have_hostname(self, uid: str) -> bool:
        """Whether it is worth asking for; costs less than making the workload."""
        return any(self.shelf.shape(row).hostname for row in self.by_uid.rows(hash(uid)))

    def held(self, uid: str) -> tuple[int, Workload] | None:
        """The workload with its row: for those who look once, at many."""
        for row in self.by_uid.rows(hash(uid)):
            workload = self.shelf.made(row)
            if workload.uid == uid:
                return row, workload
        return None

    def at(self, address: NetworkAddress) -> Workload | None:
        """The one that an address means: of the best rank the one seen last."""
        best: Workload | None = None
        for row in self.by_address.rows(hash(address)):
            workload = self.shelf.at(row)
            if workload.network != address.network or address.ip not in workload.addresses:
                continue
            if best is None or address_rank(workload) >= address_rank(best):
                best = workload
        return best

    def pods_at(self, address: NetworkAddress) -> tuple[Workload, ...]:
        """All pods that are listed with an address, whichever of them it means."""
        found = map(self.shelf.at, self.by_address.rows(hash(address)))
        here = (w for w in found if w.network == address.network and address.ip in w.addresses)
        return tuple(workload for workload in here if is_pod(workload))

    def named(self, namespace: str, name: str) -> tuple[Workload, ...]:
        found = map(self.shelf.at, self.by_name.rows(hash((namespace, name))))
        return tuple(w for w in found if w.name == name and w.namespace == namespace)

    def with_hostname(self, key: NamespacedHostname) -> Workload | None:
        """The one seen first."""
        for row in self.by_hostname.rows(hash(key)):
            workload = self.shelf.at(row)
            if workload.hostname == key.hostname and workload.namespace == key.namespace:
                return workload
        return None


class Services:
    """Services by their key, as a mapping; and the tables of the other names they are found by."""

    def __init__(self) -> None:
        self.shelf: Shelf[Service] = Shelf(ServiceCut())
        self.live_bytes = 0
        self.by_key, self.by_vip, self.by_hostname = Table(), Table(), Table()

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[NamespacedHostname]:
        """In no order."""
        for row in self.by_key:
            yield self.shelf.made(row).key

    def __contains__(self, key: object) -> bool:
        return isinstance(key, NamespacedHostname) and self.held(key) is not None

    def __getitem__(self, key: NamespacedHostname) -> Service:
        service = self.get(key)
        if service is None:
            raise KeyError(key)
        return service

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, in the same order; a mapping need not have that."""
        if isinstance(other, Services):
            return list(self.values()) == list(other.values())
        return dict(self.items()) == other

    def __hash__(self) -> int:
        return len(self)

    def get(self, key: NamespacedHostname) -> Service | None:
        for row in self.by_key.rows(hash(key)):
            service = self.shelf.at(row)
            if service.key == key:
                return service
        return None

    def values(self) -> Iterator[Service]:
        for row in sorted(self.by_key):
            yield self.shelf.made(row)

    def items(self) -> Iterator[tuple[NamespacedHostname, Service]]:
        for service in self.values():
            yield service.key, service

    def held(self, key: NamespacedHostname) -> tuple[int, Service] | None:
        """The service with its row: for those who look once, at many."""
        for row in self.by_key.rows(hash(key)):
            service = self.shelf.made(row)
            if service.key == key:
                return row, service
        return None

    def at(self, vip: NetworkAddress) -> tuple[Service, ...]:
        """Those that have a virtual IP, the one seen first before the others."""
        found = map(self.shelf.at, self.by_vip.rows(hash(vip)))
        return tuple(service for service in found if vip in service.vips)

    def with_hostname(self, hostname: str) -> tuple[Service, ...]:
        rows = self.by_hostname.rows(hash(hostname))
        if not rows:  # of nearly all names that pods ask for: each is tried in a dozen forms
            return ()
        return tuple(service for service in map(self.shelf.at, rows) if service.hostname == hostname)


def address_rank(workload: Workload) -> int:
    """Of workloads that share an address: pods before others, then HBONE before plain."""
    return 2 * is_pod(workload) + (workload.protocol is TunnelProtocol.HBONE)


def is_pod(workload: Workload) -> bool:
    return "//Pod/" in workload.uid
