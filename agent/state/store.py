"""The one mutable cell of mesh state: the current snapshot, and who wants to know when it changes.

Listeners are called in the order in which they subscribed, after the swap and before `swap` returns or `applying` ends,
so an ACK sent afterwards means that all of them have dealt with the change. One that has much to do does it in steps:
what is new meanwhile is judged by the new snapshot already. A listener that raises is a defect: the error goes to the
caller and the process must not go on as if its connections had been checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.model.steps import Steps, to_the_end
from agent.state.apply import Batch, Changes, applying
from agent.state.snapshot import Snapshot

Listener = Callable[[Snapshot, Changes], Iterator[None] | None]
"""Deals with a change, at once or in the steps it answers."""


class Store:
    """Holds the current snapshot. One thread only."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._current = snapshot
        self._listeners: list[Listener] = []

    @property
    def current(self) -> Snapshot:
        return self._current

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def swap(self, snapshot: Snapshot, changes: Changes) -> None:
        """Make this snapshot the current one and tell everyone; nothing is told if nothing changed."""
        to_the_end(self._swapping(snapshot, changes))

    def apply(self, batch: Batch) -> Changes:
        """Apply a batch to the current snapshot and swap."""
        return to_the_end(self.applying(batch))

    def applying(self, batch: Batch) -> Steps[Changes]:
        """The same in steps. Until it has ended nobody else may change the state."""
        base = self._current
        snapshot, changes = yield from applying(base, batch)
        assert self._current is base, "two changes at once: one of them would be lost"
        yield from self._swapping(snapshot, changes)
        return changes

    def _swapping(self, snapshot: Snapshot, changes: Changes) -> Steps[None]:
        self._current = snapshot
        if changes:
            for listener in tuple(self._listeners):
                yield from listener(snapshot, changes) or ()
