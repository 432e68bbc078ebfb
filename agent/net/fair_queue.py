"""What waits of several parties, taken from one after the other: who has much there keeps nobody else waiting. Pure."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """`most`: of one party."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, deque[T]] = {}
        self._turns: deque[str] = deque()
        """Those of whom something waits, the next one first."""

    def __bool__(self) -> bool:
        return bool(self._turns)

    def put(self, whose: str, item: T) -> bool:
        """Whether there was room for it."""
        waiting = self._waiting.get(whose)
        if waiting is None:
            waiting = self._waiting[whose] = deque()
            self._turns.append(whose)
        elif len(waiting) >= self._most:
            return False
        waiting.append(item)
        return True

    def take(self) -> T:
        """The next one. Raises IndexError where nothing waits."""
        whose = self._turns.popleft()
        waiting = self._waiting[whose]
        item = waiting.popleft()
        if waiting:
            self._turns.append(whose)
        else:
            del self._waiting[whose]
        return item

    def clear(self) -> None:
        self._waiting.clear()
        self._turns.clear()
