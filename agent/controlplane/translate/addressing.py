"""The Services of a mesh with the addresses they were given, followed from one change to the next. Pure.

Addresses are given anew only where that may come out differently: Services have changed, or a pod has taken an address
that was given to one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from agent.controlplane.read.changes import Changes
from agent.controlplane.read.objects import Key, Object, Pod, Service
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.translate.vips import Remembered, allocate
from agent.model.address import CIDR, IP


@dataclass(frozen=True)
class Addressing:
    """`asked`: Services as they were read; `services` with addresses; those in `errors` could get none."""

    asked: Mapping[Key, Service] = field(default_factory=dict)
    services: Mapping[Key, Service] = field(default_factory=dict)
    remembered: Remembered = field(default_factory=dict)
    errors: tuple[ManifestError, ...] = ()

    @classmethod
    def of(
        cls, asked: Iterable[Service], pods: Iterable[Pod], ranges: tuple[CIDR, ...], remembered: Remembered
    ) -> Addressing:
        services = {s.meta.key: s for s in asked}
        taken = [ip for pod in pods for ip in pod.ips]
        allocation = allocate(services.values(), ranges, remembered, taken)
        given = {s.meta.key: s for s in allocation.services}
        return cls(services, given, allocation.remembered, allocation.errors)

    def is_touched_by(self, changes: Changes) -> bool:
        if any(isinstance(o, Service) for o in changes):
            return True
        newcomers = (o for o in changes.come.values() if isinstance(o, Pod))
        # Where a Service could get none, any pod that is gone may have made room.
        is_short = bool(self.errors) and any(isinstance(o, Pod) for o in changes)
        return is_short or any(ip in self._given for pod in newcomers for ip in pod.ips)

    def changed(
        self, changes: Changes, pods: Collection[Pod], ranges: tuple[CIDR, ...]
    ) -> tuple[Addressing, Changes]:
        """After changes, `pods` being those of before; and the changes with the Services as they are given now."""
        gone: dict[Key, Object] = {k: o for k, o in changes.gone.items() if not isinstance(o, Service)}
        come: dict[Key, Object] = {k: o for k, o in changes.come.items() if not isinstance(o, Service)}
        asked = {k: s for k, s in self.asked.items() if k not in changes.gone}
        asked |= {k: o for k, o in changes.come.items() if isinstance(o, Service)}
        there = [p for p in pods if p.meta.key not in gone]
        there += (o for o in come.values() if isinstance(o, Pod))
        after = Addressing.of(asked.values(), there, ranges, self.remembered)
        others = {k for k, s in after.services.items() if self.services.get(k) != s}
        gone |= {k: s for k, s in self.services.items() if k in others or k not in after.services}
        come |= {k: after.services[k] for k in others}
        return after, Changes(gone, come)

    @cached_property
    def _given(self) -> frozenset[IP]:
        """Addresses that were made up here."""
        made = (s for k, s in self.services.items() if self.asked[k].cluster_ips is None)
        return frozenset(ip for service in made for ip in service.cluster_ips or ())
