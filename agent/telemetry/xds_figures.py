"""What the discovery stream counts for metrics (docs/WIRE.md#metrics)."""

from __future__ import annotations

from collections.abc import Collection

from agent.telemetry import families
from agent.telemetry.metrics import Figures

END_REASONS = ("ConnectionError", "Error", "Complete")
"""No stream came about; it broke; the server ended it."""
OTHER = "other"
"""Stands for every type that was not asked for: what a server calls it must not become a label."""


class XdsFigures:
    """Hears of each response and of each end of the stream."""

    def __init__(self, figures: Figures, types: Collection[str]) -> None:
        self._figures = figures
        self._types = frozenset(types)
        # From zero on, so that rates see the first of each.
        for type_url in (*types, OTHER):
            figures.add(families.XDS_MESSAGES, type_url, count=0)
            figures.add(families.XDS_MESSAGE_BYTES, type_url, count=0)
        for reason in END_REASONS:
            figures.add(families.XDS_TERMINATIONS, reason, count=0)

    def message(self, type_url: str, body_bytes: int) -> None:
        label = type_url if type_url in self._types else OTHER
        self._figures.add(families.XDS_MESSAGES, label)
        self._figures.add(families.XDS_MESSAGE_BYTES, label, count=body_bytes)

    def terminated(self, reason: str) -> None:
        self._figures.add(families.XDS_TERMINATIONS, reason)
