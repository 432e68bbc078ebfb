"""Objects by something that they name, which may be several things: found without asking each of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Object

N = TypeVar("N", bound=Hashable)
T = TypeVar("T", bound=Object)


class Relation(Generic[N, T]):
    """A value: `changed` answers another one. Both share what they have alike."""

    def __init__(self, names_of: Callable[[T], Iterable[N]], objects: Iterable[T] = ()) -> None:
        self._names_of = names_of
        tables: dict[N, dict[Key, T]] = {}
        for made in objects:
            for name in names_of(made):
                tables.setdefault(name, {})[made.meta.key] = made
        self._tables: Mapping[N, Mapping[Key, T]] = tables

    def get(self, name: N) -> Collection[T]:
        """Those that name it."""
        return self._tables.get(name, {}).values()

    def changed(self, gone: Iterable[T], come: Iterable[T]) -> Relation[N, T]:
        tables: dict[N, dict[Key, T]] = {}

        def table(name: N) -> dict[Key, T]:
            if name not in tables:
                tables[name] = dict(self._tables.get(name, {}))
            return tables[name]

        for made in gone:
            for name in self._names_of(made):
                table(name).pop(made.meta.key, None)
        for made in come:
            for name in self._names_of(made):
                table(name)[made.meta.key] = made
        if not tables:
            return self
        after = Relation[N, T](self._names_of)
        kept = {name: objects for name, objects in self._tables.items() if name not in tables}
        after._tables = kept | {name: objects for name, objects in tables.items() if objects}
        return after
