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
FAULTS = 10
"""So many of an annotation are told: enough to mend, and its text may be long."""
_PART = re.compile(r"([^=:]*)([=:]?)(.*)", re.DOTALL)
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
    """What the annotation says. Raises LimitError, of all its faults."""
    values: dict[str, int] = {}
    seen: set[str] = set()
    faults: list[str] = []
    for part in text.split(","):
        found = _PART.fullmatch(part)
        assert found is not None, "it takes any text"
        name, sign, value = (each.strip() for each in found.groups())
        if fault := _fault(name, sign) or (f"{name} stands there twice" if name in seen else ""):
            faults.append(fault)
        else:
            try:
                values[name] = parse_limit(name, value)
            except LimitError as error:
                faults.append(f"{name}: {error}")
        seen.add(name)
        if len(faults) == FAULTS:
            break
    if faults:
        raise LimitError("; ".join(faults))
    return Limits(values.get(CONNECTIONS), values.get(NEW), values.get(BYTES))


def _fault(name: str, sign: str) -> str:
    """What is wrong with one part of the annotation before its number; empty where nothing is."""
    if not name:
        return f"it wants NAME=NUMBER with commas between, e.g. {EXAMPLE}"
    if name not in MOST:
        meant = _LIKE.get(_bare(name))
        hint = f"did you mean {meant}?" if meant else f"want some of {', '.join(MOST)}, e.g. {EXAMPLE}"
        return f"{name!r} is no limit: {hint}"
    if sign == ":":
        return f"{name} wants '=' before its number, not ':', e.g. {EXAMPLE}"
    return "" if sign else f"{name} has no number, e.g. {EXAMPLE}"


def _bare(name: str) -> str:
    """A name by its letters: as fields of the object, singular and plural are one."""
    return name.replace("-", "").replace("_", "").lower().rstrip("s")


_LIKE = {_bare(name): name for name in MOST}


def parse_limit(name: str, text: str) -> int:
    """The number of one limit. Raises LimitError, which leaves to the caller where it stands."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        units = ", ".join(filter(None, UNITS))
        raise LimitError(f"{text!r} is not a whole number; it may end in one of {units}")
    value = int(found[1]) * UNITS[found[2] or ""]
    if not LEAST[name] <= value <= MOST[name]:
        why = f" ({CONNECTIONS}=0 lets nobody in)" if not value else ""
        raise LimitError(f"{text} is not from {LEAST[name]} to {MOST[name]}{why}")
    return value
