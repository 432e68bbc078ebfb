"""Routes that are made when a request looks for one: what answers them is loaded then, and nobody else waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache

from agent.admin.server import Handler, Routes


class LateRoutes(Mapping[tuple[str, str], Handler]):
    """`make` is called once, in the first request or by whoever looks before."""

    def __init__(self, make: Callable[[], Routes]) -> None:
        self._made = cache(make)

    def __getitem__(self, key: tuple[str, str]) -> Handler:
        return self._made()[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())
