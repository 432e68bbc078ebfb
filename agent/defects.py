"""Faults of our own, found while something is read that others say: told whole once, and never the end of who reads.

What a control plane says comes to every node alike, and again after a restart: what ends one agent ends them all.
"""

from __future__ import annotations

import logging
import traceback

DEFECT = "a defect in ztun"
"""How the reason begins of what is refused by a fault of ours."""


class Defects:
    """Tells each, by the place that raised it, with its traceback the first time, and in a line afterwards."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: set[tuple[str, int | None, str]] = set()

    def note(self, what: str, error: Exception) -> str:
        """Log that this was met in `what`; answers the reason, for who sent it and for the status."""
        raised = traceback.extract_tb(error.__traceback__)[-1:]
        place = (*((at.filename, at.lineno) for at in raised), ("", None))[0]
        key = (*place, type(error).__name__)
        reason = f"{DEFECT}: {type(error).__name__}: {error}"
        self._log.error("%s: %s", what, reason, exc_info=None if key in self._told else error)
        self._told.add(key)
        return reason
