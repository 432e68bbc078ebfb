"""Limits of what one client may have at one pod: how they are written, and what one says.

A client is who has proven an identity by mutual TLS; all that have proven none are one client together. Every limit
is of one client at one pod, over all workers of the pod's node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.model.policy import Match

ANNOTATION = "ztun.io/limits"
CONNECTIONS, NEW, BYTES = "connections", "new-connections-per-second", "bytes-per-second"
MOST = {CONNECTIONS: 10**7, NEW: 10**6, BYTES: 10**12}
LEAST = {CONNECTIONS: 0, NEW: 1, BYTES: 1000}
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
"""As quantities of Kubernetes have them."""
EXAMPLE = f"{CONNECTIONS}=100, {NEW}=20, {BYTES}=10M"
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,12})([kMG]i?|Ki)?")


class LimitError(ValueError):
    """A limit that means nothing; says what is wrong, and how one is written."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What each client may have; None: as much as it likes."""

    connections: int | None = None
    new_per_second: int | None = None
    bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """Limits of the clients that one of `clients` matches, of every client where there are none.

    `name` is what people know it by.
    """

    name: str
    limits: Limits
    clients: tuple[Match, ...] = ()


def parse_limits(text: str) -> Limits:
    """What the annotation says. Raises LimitError."""
    values: dict[str, int] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if name not in MOST:
            raise LimitError(
                f"{name!r} is no limit: want some of {', '.join(MOST)}, e.g. {EXAMPLE}"
                if name
                else f"it wants NAME=NUMBER with commas between, e.g. {EXAMPLE}"
            )
        if not equals:
            raise LimitError(f"{name} has no number, e.g. {EXAMPLE}")
        if name in values:
            raise LimitError(f"{name} stands there twice")
        values[name] = parse_limit(name, value)
    return Limits(values.get(CONNECTIONS), values.get(NEW), values.get(BYTES))


def parse_limit(name: str, text: str) -> int:
    """One number. Raises LimitError."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        units = ", ".join(filter(None, UNITS))
        raise LimitError(f"{name}: {text!r} is not a whole number; it may end in one of {units}")
    value = int(found[1]) * UNITS[found[2] or ""]
    if not LEAST[name] <= value <= MOST[name]:
        why = f" ({CONNECTIONS}=0 lets nobody in)" if not value else ""
        raise LimitError(f"{name}: {text} is not from {LEAST[name]} to {MOST[name]}{why}")
    return value
