"""Which resources of a type a client wants: all of them, or those behind the names it asked for. Without IO.

On demand (docs/WIRE.md#discovery) a name is a resource's own, or an alias; a Service brings its workloads, and the
workloads of the client's own node come unasked. Level-triggered like the session: `wanted` is asked at every step, and
what is no longer wanted is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import intern

from agent.controlplane.translate.resources import Resource, Snapshot

WILDCARD = "*"


class Interest:
    """One client's interest in addresses. `asked`: names that have to be answered, whatever is held already."""

    def __init__(self, node: str, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> None:
        names = list(subscribe)
        self._node = node
        # An empty first request means everything, as does a star; a star taken back at once means nothing.
        self.is_wildcard = (not names or WILDCARD in names) and WILDCARD not in unsubscribe
        self._names: set[str] = {name for name in names if name != WILDCARD}
        self.asked: list[str] = sorted(self._names)

    def hold(self, versions: Mapping[str, str]) -> dict[str, str]:
        """What a client that comes back holds; on demand those are names it wants, unanswered ones have no version."""
        if self.is_wildcard:
            return {intern(name): intern(version) for name, version in versions.items()}
        self._names |= versions.keys()
        self.asked += [name for name, version in versions.items() if not version and name not in self.asked]
        return {name: version for name, version in versions.items() if version}

    def change(self, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> None:
        """Names come and go; a name that is wanted already is not answered again."""
        for name in subscribe:
            if name == WILDCARD:
                self.is_wildcard = True
            elif self.is_wildcard or name not in self._names:
                self._names.add(name)
                self.asked.append(name)
        for name in unsubscribe:
            if name == WILDCARD:
                self.is_wildcard = False
            self._names.discard(name)

    def wanted(self, snapshot: Snapshot) -> Mapping[str, Resource]:
        if self.is_wildcard:
            return snapshot.addresses
        found = {r.name: r for r in snapshot.index.of_node.get(self._node, ())}
        for name in self._names:
            found.update((r.name, r) for r in self.behind(name, snapshot))
        return found

    def behind(self, name: str, snapshot: Snapshot) -> list[Resource]:
        """The resources that a name stands for; none if it is unknown."""
        found = snapshot.index.named(name)
        if self.is_wildcard:
            return found
        return [*found, *(m for r in found for m in snapshot.index.of_service.get(r.name, ()))]
