"""Who selects a workload: objects with label selectors, found by one of the labels they ask for. Pure.

A mesh has tens of thousands of workloads and thousands of selectors; asking each selector about each workload is what
translating would otherwise spend its time on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there with its value."""
    return all(labels.get(name) == value for name, value in selector.items())


class Selection(Generic[T]):
    """Objects of one namespace with their selectors; those with an empty one select nobody."""

    def __init__(self, objects: Iterable[T], selector_of: Callable[[T], Mapping[str, str] | None]) -> None:
        self._by_label: defaultdict[tuple[str, str], list[tuple[int, Mapping[str, str], T]]] = defaultdict(
            list
        )
        for order, each in enumerate(objects):
            selector = selector_of(each)
            if selector:
                self._by_label[next(iter(selector.items()))].append((order, selector, each))

    def finds(self, labels: Mapping[str, str]) -> list[T]:
        """Those that select a workload with these labels, in the order they were given."""
        found = [
            entry
            for label in labels.items()
            for entry in self._by_label.get(label, ())
            if selects(entry[1], labels)
        ]
        found.sort(key=lambda entry: entry[0])
        return [each for _, _, each in found]


def by_namespace(
    objects: Iterable[T],
    namespace_of: Callable[[T], str],
    selector_of: Callable[[T], Mapping[str, str] | None],
) -> dict[str, Selection[T]]:
    """A selection for each namespace that has such an object."""
    groups: defaultdict[str, list[T]] = defaultdict(list)
    for each in objects:
        groups[namespace_of(each)].append(each)
    return {namespace: Selection(group, selector_of) for namespace, group in groups.items()}
