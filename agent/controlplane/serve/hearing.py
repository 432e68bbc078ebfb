"""Whose agents have reported since a control plane began.

Which pods are captured is known from their agents alone, and what they had told the control plane before may be lost,
or older than what peers hold: restored with its directory, or begun anew and ended before the last agent had reported.
Until the agent of a node is heard, nobody who knows its pods from before is told that they take plaintext: what peers
hold stays as it is, for a while. A peer that holds nothing is told everything at once, as the agents of a new mesh have
to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

PATIENCE_S = 15.0
"""Agents come back within five seconds, and report at once."""


class Hearing:
    """`is_lost`: nothing is known of before. `changed` is called when somebody is no longer waited for."""

    def __init__(self, is_lost: bool, changed: Callable[[], None] = lambda: None) -> None:
        self._is_lost, self._changed = is_lost, changed
        self._is_waiting = True
        self._heard: set[str] = set()
        self._was_before = False

    def is_awaited(self, node: str) -> bool:
        """Whether its agent may still tell that pods there are captured."""
        return self._is_waiting and node not in self._heard

    def came_back(self) -> None:
        """Somebody holds what another control plane has sent: this is not the first one."""
        if self._is_lost and not self._was_before:
            self._was_before = True
            self._changed()

    def hear(self, node: str) -> None:
        if node not in self._heard:
            self._heard.add(node)
            if self._is_lost or self._is_waiting:
                self._changed()

    def give_up(self) -> None:
        """Enough was waited."""
        if self._is_waiting:
            self._is_waiting = False
            self._changed()

    def unheard(self, nodes: Iterable[str]) -> tuple[str, ...]:
        """Of these nodes, those of which nothing is known."""
        return tuple(sorted(set(nodes) - self._heard)) if self._is_lost and self._was_before else ()
