"""The workloads, and the services, of the next snapshot: copies of the tables, made in steps when the first changes."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping
from typing import TypeVar

from agent.model.address import NamespacedHostname, NetworkAddress
from agent.model.service import Service
from agent.model.steps import Steps, each
from agent.model.table import Table
from agent.model.workload import Workload
from agent.state.directory import Services, Workloads
from agent.state.shelf import Shelf

T = TypeVar("T", bound=Hashable)
Links = Mapping[NamespacedHostname, "array[int]"]
SLACK_BYTES = 1 << 16
"""So much may lie on a shelf for nothing, besides as much as is needed."""


class WorkloadsDraft:
    """Rows are added to the shelf of all snapshots; the tables are the draft's own."""

    def __init__(self, base: Workloads, links: Links) -> None:
        self._base, self._next = base, base
        self._links: Links = links
        self._touched: dict[NamespacedHostname, array[int]] = {}
        """Links of the services whose workloads changed; those of rows that are gone are among them until the end."""
        self._gone: set[int] = set()

    def put(self, workload: Workload) -> Steps[None]:
        yield from self._begin()
        yield from self.remove(workload.uid)
        now = self._next
        addresses = addresses_of(workload)
        if now.by_uid.is_full(1):
            yield from now.by_uid.growing(1)
        if now.by_name.is_full(1):
            yield from now.by_name.growing(1)
        if now.by_address.is_full(len(addresses)):
            yield from now.by_address.growing(len(addresses))
        if now.by_hostname.is_full(1):
            yield from now.by_hostname.growing(1)
        row = now.shelf.put(workload)
        now.live_bytes += now.shelf.size_bytes(row)
        now.by_uid.add(hash(workload.uid), row)
        now.by_name.add(hash((workload.namespace, workload.name)), row)
        if not workload.host_network:
            for address in addresses:
                now.by_address.add(hash(address), row)
        if workload.hostname:
            now.by_hostname.add(hash(hostname_of(workload)), row)
        for key in workload.services:
            self._links_of(key).append(row)

    def remove(self, uid: str) -> Steps[None]:
        """Nothing happens when there is none."""
        found = self._next.held(uid)
        if found is None:
            return
        yield from self._begin()
        row, workload = found
        now = self._next
        now.live_bytes -= now.shelf.size_bytes(row)
        now.by_uid.discard(hash(uid), row)
        now.by_name.discard(hash((workload.namespace, workload.name)), row)
        for address in addresses_of(workload):
            now.by_address.discard(hash(address), row)
        if workload.hostname:
            now.by_hostname.discard(hash(hostname_of(workload)), row)
        for key in workload.services:
            self._links_of(key)
        self._gone.add(row)

    def finish(self) -> Steps[tuple[Workloads, Links, set[NamespacedHostname]]]:
        """The workloads, the links, and the services that have others than before."""
        if self._next is self._base:
            return self._base, self._links, set()
        links, gone, touched = dict(self._links), self._gone, self._touched
        stale: set[NamespacedHostname] = set()
        while touched:
            key, rows = touched.popitem()
            stale.add(key)
            left = [row for row in rows if row not in gone]
            if left:
                links[key] = array("I", left)
            else:
                links.pop(key, None)
            yield
        if self._next.shelf.total_bytes > 2 * self._next.live_bytes + SLACK_BYTES:
            return (*(yield from self._anew()), stale)
        return self._next, links, stale

    def _anew(self) -> Steps[tuple[Workloads, Links]]:
        """The same on another shelf, which has nothing else."""
        whole, before = WorkloadsDraft(Workloads(), {}), self._next
        for row in (yield from in_order(before.shelf, before.by_uid)):
            yield from whole.put(before.shelf.made(row))
            yield
        now, links, _ = yield from whole.finish()
        return now, links

    def _begin(self) -> Steps[None]:
        if self._next is not self._base:
            return
        base, copied = self._base, Workloads()
        copied.shelf, copied.live_bytes = base.shelf, base.live_bytes
        copied.by_uid = base.by_uid.copy()
        yield
        copied.by_name = base.by_name.copy()
        yield
        copied.by_address = base.by_address.copy()
        copied.by_hostname = base.by_hostname.copy()
        yield
        self._next = copied

    def _links_of(self, key: NamespacedHostname) -> array[int]:
        links = self._touched.get(key)
        if links is None:
            before = self._links.get(key)
            links = self._touched[key] = array("I") if before is None else before[:]
        return links


class ServicesDraft:
    """As for workloads."""

    def __init__(self, base: Services) -> None:
        self._base, self._next = base, base

    def put(self, service: Service) -> Steps[None]:
        """One that is not there."""
        yield from self._begin()
        now, vips = self._next, dict.fromkeys(service.vips)
        if now.by_key.is_full(1):
            yield from now.by_key.growing(1)
        if now.by_hostname.is_full(1):
            yield from now.by_hostname.growing(1)
        if now.by_vip.is_full(len(vips)):
            yield from now.by_vip.growing(len(vips))
        row = now.shelf.put(service)
        now.live_bytes += now.shelf.size_bytes(row)
        now.by_key.add(hash(service.key), row)
        now.by_hostname.add(hash(service.hostname), row)
        for vip in vips:
            now.by_vip.add(hash(vip), row)

    def remove(self, key: NamespacedHostname) -> Steps[Service | None]:
        """What was there."""
        found = self._next.held(key)
        if found is None:
            return None
        yield from self._begin()
        row, service = found
        now = self._next
        now.live_bytes -= now.shelf.size_bytes(row)
        now.by_key.discard(hash(key), row)
        now.by_hostname.discard(hash(service.hostname), row)
        for vip in dict.fromkeys(service.vips):
            now.by_vip.discard(hash(vip), row)
        return service

    def finish(self) -> Steps[Services]:
        if (
            self._next is self._base
            or self._next.shelf.total_bytes <= 2 * self._next.live_bytes + SLACK_BYTES
        ):
            return self._next
        whole, before = ServicesDraft(Services()), self._next
        for row in (yield from in_order(before.shelf, before.by_key)):
            yield from whole.put(before.shelf.made(row))
            yield
        return (yield from whole.finish())

    def _begin(self) -> Steps[None]:
        if self._next is not self._base:
            return
        base, copied = self._base, Services()
        copied.shelf, copied.live_bytes = base.shelf, base.live_bytes
        copied.by_key = base.by_key.copy()
        yield
        copied.by_vip, copied.by_hostname = base.by_vip.copy(), base.by_hostname.copy()
        yield
        self._next = copied


def in_order(shelf: Shelf[T], table: Table) -> Steps[array[int]]:
    """The rows of a table as they were added to the shelf. Sorting them would take longer than a slice."""
    there: set[int] = set()
    found = array("I")

    def take(row: int) -> None:
        if row in there:
            found.append(row)

    yield from each(table, there.add)
    yield from each(shelf.numbers(), take)
    return found


def addresses_of(workload: Workload) -> dict[NetworkAddress, None]:
    """Its addresses, each once, in order."""
    return dict.fromkeys([NetworkAddress(workload.network, ip) for ip in workload.addresses])


def hostname_of(workload: Workload) -> NamespacedHostname:
    return NamespacedHostname(workload.namespace, workload.hostname)
