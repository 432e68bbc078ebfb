"""What the discovery stream counts for metrics (docs/WIRE.md#metrics)."""

from __future__ import annotations

from collections.abc import Iterable

from agent.telemetry import families
from agent.telemetry.metrics import Figures

END_REASONS = ("ConnectionError", "Error", "Complete")
"""No stream came about; it broke; the server ended it."""


class XdsFigures:
    """Hears of each response and of each end of the stream."""

    def __init__(self, figures: Figures, types: Iterable[str] = ()) -> None:
        self._figures = figures
        # From zero on, so that rates see the first of each.
        for type_url in types:
            figures.add(families.XDS_MESSAGES, type_url, count=0)
            figures.add(families.XDS_MESSAGE_BYTES, type_url, count=0)
        for reason in END_REASONS:
            figures.add(families.XDS_TERMINATIONS, reason, count=0)

    def message(self, type_url: str, body_bytes: int) -> None:
        self._figures.add(families.XDS_MESSAGES, type_url)
        self._figures.add(families.XDS_MESSAGE_BYTES, type_url, count=body_bytes)

    def terminated(self, reason: str) -> None:
        self._figures.add(families.XDS_TERMINATIONS, reason)
