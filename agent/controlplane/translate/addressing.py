"""The Services of a mesh with the addresses they were given, followed from one change to the next. Pure.

Addresses are given anew only where that may come out differently: Services have changed, or a pod has taken an address
that was given to one. ServiceEntries are Services here: their hosts have addresses, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from agent.controlplane.read.changes import Changes
from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Object, Pod, Service
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.translate.entry_vips import allocate_hosts, host_names, is_of_host
from agent.controlplane.translate.vips import Remembered, allocate, remembered_name
from agent.model.address import CIDR, IP

Addressed = Service | ServiceEntry


@dataclass(frozen=True)
class Addressing:
    """`asked`: as they were read; `given` with addresses; those in `errors` could get none."""

    asked: Mapping[Key, Addressed] = field(default_factory=dict)
    given: Mapping[Key, Addressed] = field(default_factory=dict)
    remembered: Remembered = field(default_factory=dict)
    errors: tuple[ManifestError, ...] = ()

    @classmethod
    def of(
        cls, asked: Iterable[Addressed], pods: Iterable[Pod], ranges: tuple[CIDR, ...], remembered: Remembered
    ) -> Addressing:
        known = {o.meta.key: o for o in asked}
        taken = [ip for pod in pods for ip in pod.ips]
        services = [o for o in known.values() if isinstance(o, Service)]
        allocation = allocate(services, ranges, remembered, taken)
        entries = [o for o in known.values() if isinstance(o, ServiceEntry)]
        with_hosts, of_hosts, errors = allocate_hosts(entries, remembered)
        made: dict[Key, Addressed] = {s.meta.key: s for s in allocation.services}
        made.update((e.meta.key, e) for e in with_hosts)
        return cls(known, made, {**allocation.remembered, **of_hosts}, (*allocation.errors, *errors))

    def is_touched_by(self, changes: Changes) -> bool:
        if any(isinstance(o, Addressed) for o in changes):
            return True
        newcomers = (o for o in changes.come.values() if isinstance(o, Pod))
        # Where a Service could get none, any pod that is gone may have made room.
        is_short = bool(self.errors) and any(isinstance(o, Pod) for o in changes)
        return is_short or any(ip in self._made_up for pod in newcomers for ip in pod.ips)

    def changed(
        self, changes: Changes, pods: Collection[Pod], ranges: tuple[CIDR, ...]
    ) -> tuple[Addressing, Changes]:
        """After changes, `pods` being those of before; and the changes with the Services as they are given now."""
        gone: dict[Key, Object] = {k: o for k, o in changes.gone.items() if not isinstance(o, Addressed)}
        come: dict[Key, Object] = {k: o for k, o in changes.come.items() if not isinstance(o, Addressed)}
        asked = {k: s for k, s in self.asked.items() if k not in changes.gone}
        asked |= {k: o for k, o in changes.come.items() if isinstance(o, Addressed)}
        if self._is_settled(changes):
            # Nobody wants an address, nor has one that was made up for somebody: they are as they were read.
            given = {k: s for k, s in self.given.items() if k not in changes.gone}
            given |= {k: o for k, o in changes.come.items() if isinstance(o, Addressed)}
            return dataclasses.replace(self, asked=asked, given=given), changes
        if self.errors or any(isinstance(o, Service | Pod) for o in changes):
            there = [p for p in pods if p.meta.key not in gone]
            there += (o for o in come.values() if isinstance(o, Pod))
            after = Addressing.of(asked.values(), there, ranges, self.remembered)
        else:
            after = self._with_entries(asked)
        others = {k for k, s in after.given.items() if self.given.get(k) is not s and self.given.get(k) != s}
        gone |= {k: s for k, s in self.given.items() if k in others or k not in after.given}
        come |= {k: after.given[k] for k in others}
        return after, Changes(gone, come)

    def _with_entries(self, asked: Mapping[Key, Addressed]) -> Addressing:
        """With other entries, the Services being the same: their addresses are of other ranges."""
        entries = [o for o in asked.values() if isinstance(o, ServiceEntry)]
        made, remembered, errors = allocate_hosts(entries, self.remembered)
        given: dict[Key, Addressed] = {k: s for k, s in self.given.items() if isinstance(s, Service)}
        given.update((e.meta.key, e) for e in made)
        kept = {name: ips for name, ips in self.remembered.items() if not is_of_host(name)}
        return Addressing(asked, given, {**kept, **remembered}, errors)

    def _is_settled(self, changes: Changes) -> bool:
        """Whether all Services in it have the addresses that they can have, and nobody's that were made up."""
        if self.errors or any(isinstance(o, Pod) for o in changes):
            return False
        made_up = self._made_up | self._of_hosts
        addressed = (o for o in changes if isinstance(o, Addressed))
        return not any(is_without_address(o) or _addresses(o) & made_up for o in addressed)

    @cached_property
    def _of_hosts(self) -> frozenset[IP]:
        """Addresses of hosts that were made up here, or by another control plane."""
        entries = (e for e in self.given.values() if isinstance(e, ServiceEntry))
        return frozenset(ip for entry in entries for ips in entry.allocated.values() for ip in ips)

    @cached_property
    def _made_up(self) -> frozenset[IP]:
        """Addresses of Services that were made up here; those of entries are in ranges that nobody has."""
        services = ((k, s) for k, s in self.given.items() if isinstance(s, Service))
        made = (s for k, s in services if is_without_address(self.asked[k]))
        return frozenset(ip for service in made for ip in service.cluster_ips or ())


def is_without_address(asked: Addressed) -> bool:
    if isinstance(asked, Service):
        return asked.cluster_ips is None
    return bool(asked.unaddressed_hosts)


def _addresses(asked: Addressed) -> set[IP]:
    if isinstance(asked, Service):
        return set(asked.cluster_ips or ())
    own = {ip for ip, length in asked.addresses if length == ip.max_prefixlen}
    return own.union(*asked.allocated.values())


def remembered_names(made: Addressed) -> Iterator[str]:
    """The names in Remembered of what it was given."""
    if isinstance(made, Service):
        yield remembered_name(made)
    else:
        yield from host_names(made)
