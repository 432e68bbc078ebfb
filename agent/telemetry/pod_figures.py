"""Counts pods that begin and cease to be served."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from agent.telemetry import families
from agent.telemetry.metrics import Figures


class PodFigures:
    """Hears of every change of the pods that are served."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._served: frozenset[Hashable] = frozenset()
        self.served(())

    def served(self, pods: Iterable[Hashable]) -> None:
        """These and no others are served now."""
        now = frozenset(pods)
        self._figures.add(families.PODS_STARTED, count=len(now - self._served))
        self._figures.add(families.PODS_STOPPED, count=len(self._served - now))
        self._served = now
