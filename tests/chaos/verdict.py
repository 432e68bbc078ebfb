"""What a step of chaos must not have had: observations in, violations in words out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.losses import Allowed, Path, loss_of


@dataclass(frozen=True, slots=True)
class Visit:
    """A new connection; `why` is empty where all went well. Times of the monotonic clock."""

    began_s: float
    took_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """What an agent said of itself."""

    asked_s: float
    answered_s: float
    is_ready: bool


@dataclass(slots=True)
class Seen:
    """Of one step. `lost`: live connections by path and reason; `plain`: packets without TLS between the nodes;
    `denied`: bytes, by whom and where, that policy denies.
    """

    lost: dict[Path, Counter[str]] = field(default_factory=dict)
    visits: dict[Path, list[Visit]] = field(default_factory=dict)
    looks: dict[str, list[Look]] = field(default_factory=dict)
    plain: int = 0
    denied: dict[str, int] = field(default_factory=dict)
    denied_visits: dict[Path, list[Visit]] = field(default_factory=dict)


def violations(
    seen: Seen, faults: Sequence[tuple[str, Allowed]], ready_s: float, until_s: float = float("inf")
) -> list[str]:
    """`faults`: what was there, by node. `ready_s`: how long a new connection may take where READY is told all the
    while; `until_s`: when the step's faults were over and healed, after which nothing may fail.
    """
    found = [f"{path}: {visit.why}" for path, visit in _unallowed(seen, faults, until_s)]
    lines = [f"new connection failed, {line} ({many} times)" for line, many in Counter(found).items()]
    for path, reasons in seen.lost.items():
        for why, many in reasons.items():
            loss = loss_of(why)
            if not any(allowed.of_live(loss, path, node) for node, allowed in faults):
                lines.append(f"live connections lost, {path}: {many} of them: {why}")
    if seen.plain:
        lines.append(f"{seen.plain} packets without TLS between the nodes")
    lines += [f"policy denies {who}: {size} bytes came through" for who, size in seen.denied.items() if size]
    for path, visits in seen.denied_visits.items():
        through = [visit for visit in visits if not visit.why]
        if through:
            lines.append(f"policy denies {path}: {len(through)} connections were served")
    return lines + _ready_lies(seen, faults, ready_s)


def _unallowed(seen: Seen, faults: Sequence[tuple[str, Allowed]], until_s: float) -> list[tuple[Path, Visit]]:
    found = []
    for path, visits in seen.visits.items():
        for visit in visits:
            if not visit.why:
                continue
            loss = loss_of(visit.why)
            if visit.began_s > until_s or not any(
                allowed.of_new(loss, path, node) for node, allowed in faults
            ):
                found.append((path, visit))
    return found


def _ready_lies(seen: Seen, faults: Sequence[tuple[str, Allowed]], ready_s: float) -> list[str]:
    """A line for each path where new connections took longer while READY was told without a break."""
    is_broken = any(allowed.link_is_broken for _, allowed in faults)
    lines = []
    for path, visits in seen.visits.items():
        if is_broken and len(path.nodes) > 1:
            continue
        for visit in visits:
            if visit.took_s <= ready_s:
                continue
            end_s = visit.began_s + ready_s
            if all(_was_ready(seen.looks, node, visit.began_s, end_s) for node in path.nodes):
                lines.append(
                    f"READY told while a new connection, {path}, took {visit.took_s:.1f} s: {visit.why or 'served'}"
                )
                break
    return lines


def _was_ready(looks: Mapping[str, Sequence[Look]], node: str, began_s: float, end_s: float) -> bool:
    """Whether every look from begin to end found READY, and there were some at both ends of that time."""
    mine = [look for look in looks.get(node, ()) if look.answered_s >= began_s and look.asked_s <= end_s]
    if len(mine) < 2 or not all(look.is_ready for look in mine):
        return False
    covered_s = mine[-1].asked_s - mine[0].answered_s
    return covered_s >= (end_s - began_s) / 2
