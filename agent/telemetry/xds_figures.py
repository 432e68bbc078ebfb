"""What the discovery stream counts for metrics (docs/WIRE.md#metrics)."""

from __future__ import annotations

from agent.telemetry import families
from agent.telemetry.metrics import Figures


class XdsFigures:
    """Hears of each response and of each end of the stream."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def message(self, type_url: str, body_bytes: int) -> None:
        self._figures.add(families.XDS_MESSAGES, type_url)
        self._figures.add(families.XDS_MESSAGE_BYTES, type_url, count=body_bytes)

    def terminated(self, reason: str) -> None:
        self._figures.add(families.XDS_TERMINATIONS, reason)
