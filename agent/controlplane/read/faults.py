"""All faults of a document at once: who reads it goes on behind each, as far as the rest can be told without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar, cast

from agent.controlplane.read.yaml_tree import ManifestError

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
MOST = 20
"""So many are enough to mend; aliases can repeat one a million times."""


class Faults:
    """Security: who takes anything by it must call `end` before what was read is used: only there it is refused."""

    def __init__(self) -> None:
        self.found: list[ManifestError] = []

    def take(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What is read; in place of what cannot be read None, which `end` keeps from everybody."""
        try:
            return read(*args, **kwargs)
        except ManifestError as error:
            # What several readers look at is wrong for each of them.
            told = {*map(str, self.found)}
            self.found += (each for each in (error, *error.more) if str(each) not in told)
            if len(self.found) >= MOST:
                self.end()  # through all who take, who must not wait for the rest
            return cast(T, None)

    def each(self, read: Callable[[T], R], entries: Iterable[T]) -> tuple[R, ...]:
        """What each of them is read as; of those that cannot be read None, as of `take`."""
        return tuple(self.take(read, entry) for entry in self.take(list, entries) or ())

    def end(self) -> None:
        """Raises ManifestError, the first one with the others, where any was found."""
        if self.found:
            first, *more = self.found[:MOST]
            first.more = tuple(more)
            raise first
