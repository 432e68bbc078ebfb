"""An asyncio loop that waits through the data path's.

Its descriptors are in an epoll of their own, which is itself one descriptor of the data path's. That way round a
wake-up for user bytes costs one wait and nothing of asyncio: it has its turn when one of its descriptors is ready, a
timer of its is due, or it was asked for something, by the data path too.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

from agent.net.loop import Loop

_Ts = TypeVarTuple("_Ts")


class OuterLoop(asyncio.SelectorEventLoop):
    """Until `Loop.detach` it waits through the inner one, and then by itself."""

    def __init__(self, inner: Loop) -> None:
        selector = _OuterSelector(inner)
        self._inner = inner
        super().__init__(selector)
        inner.attach(selector.fileno())

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        # From another thread it comes through a descriptor (call_soon_threadsafe).
        self._inner.call_outer()
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._inner.call_outer()
        return super().call_at(when, callback, *args, context=context)


class _OuterSelector(selectors.EpollSelector):
    def __init__(self, inner: Loop) -> None:
        super().__init__()
        self._inner = inner

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._inner.is_attached:
            return super().select(timeout)
        self._inner.serve(timeout)
        return super().select(0)
