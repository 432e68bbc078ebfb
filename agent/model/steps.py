"""Computing that may take long, in steps: whoever drives it serves others in between.

Such work is a generator. It yields wherever it may rest, and what it makes is its return value: nobody sees it before
it is whole. Pure: time comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

SLICE_S = 0.003
"""How long work goes on at once, with others waiting. A step is far shorter."""
PACE = 8
"""Resources in a step."""


def to_the_end(work: Steps[T]) -> T:
    """The result, at once."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


def each(items: Iterable[T], take: Callable[[T], object]) -> Iterator[None]:
    """Take each, and rest after every PACE of them."""
    for count, item in enumerate(items, 1):
        take(item)
        if not count % PACE:
            yield


def goes_on(work: Iterator[None], clock: Callable[[], float]) -> bool:
    """One slice of the work; whether there is more of it. `clock` is monotonic seconds."""
    end_s = clock() + SLICE_S
    return any(clock() >= end_s for _ in work)
