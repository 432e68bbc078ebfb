"""The endpoints of a service: which workloads serve it, at which ports. Those of a snapshot are made when they are
asked for, as most never are."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from agent.model.address import NamespacedHostname
from agent.model.workload import Health, Workload
from agent.state.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A workload serving a service. `ports`: service port -> port of this workload."""

    workload: Workload
    ports: Mapping[int, int]


class EndpointList(Protocol):
    """A tuple of them, or what makes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Endpoint: ...

    def __iter__(self) -> Iterator[Endpoint]: ...


@dataclass(frozen=True, slots=True)
class Group:
    """Endpoints that differ in name and address alone: what is asked of `one` holds for all. `members`: their places in
    the list."""

    one: Endpoint
    members: Sequence[int]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of a service that may be used, with running totals of their capacities."""

    all: EndpointList = ()
    totals: Sequence[int] = ()

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> Endpoints:
        usable = tuple(endpoints)
        return cls(usable, tuple(accumulate(e.workload.capacity for e in usable)))

    @property
    def groups(self) -> Sequence[Group]:
        """All of them, by what they have in common."""
        if isinstance(self.all, Served):
            return self.all.groups()
        return [Group(endpoint, (place,)) for place, endpoint in enumerate(self.all)]


class Served:
    """Endpoints as rows of the workloads' shelf."""

    def __init__(self, shelf: Shelf[Workload], key: NamespacedHostname, rows: Sequence[int]) -> None:
        self._shelf, self._key, self._rows = shelf, key, rows
        self._groups: tuple[Group, ...] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Endpoint:
        return self._endpoint(self._shelf.at(self._rows[index]))

    def __iter__(self) -> Iterator[Endpoint]:
        for row in self._rows:
            yield self._endpoint(self._shelf.made(row))

    def groups(self) -> tuple[Group, ...]:
        """Found when they are first asked for: drawing from all takes none."""
        if self._groups is None:
            alike: dict[tuple[int, int, bool], list[int]] = {}
            for place, row in enumerate(self._rows):
                alike.setdefault(self._shelf.kind(row), []).append(place)
            self._groups = tuple(
                Group(self._endpoint(self._shelf.made(self._rows[places[0]])), array("I", places))
                for places in alike.values()
            )
        return self._groups

    def _endpoint(self, workload: Workload) -> Endpoint:
        return Endpoint(workload, workload.services[self._key])


def serving(
    shelf: Shelf[Workload], key: NamespacedHostname, rows: Iterable[int], *, everyone: bool
) -> Endpoints:
    """Those of these workloads that are healthy, or all of them."""
    usable: list[int] = []
    capacities: list[int] = []
    for row in rows:
        shape = shelf.shape(row)
        if everyone or shape.status is Health.HEALTHY:
            usable.append(row)
            capacities.append(shape.capacity)
    return Endpoints(Served(shelf, key, array("I", usable)), array("Q", list(accumulate(capacities))))
