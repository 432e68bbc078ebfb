"""What a proof finds broken: the link of the chain, whose it is, why, and what to do. Pure.

A connection of a captured pod passes a chain: interface, program, inner devices, namespaces, lookup, listener,
worker, state, certificate, peer. Whoever observes a link reports findings; the ledger knows since when each of
them stands, and which is the first broken link of each pod. A finding that nobody reports any more is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum


class Link(IntEnum):
    """The links of the chain, in the order in which a connection meets them."""

    CONTROL_PLANE = 0
    INTERFACE = 1
    PROGRAM = 2
    INNER_DEVICE = 3
    NAMESPACE = 4
    LOOKUP = 5
    LISTENER = 6
    WORKER = 7
    STATE = 8
    CERTIFICATE = 9
    PEER = 10
    PIN = 11
    """Not a link while this process lives: what would hold the others when it ends."""
    PROOF = 12
    """Not a link: a proof that could not be made."""

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken link. `pod` is `namespace/name`, empty when the whole node is concerned."""

    link: Link
    pod: str
    reason: str
    remedy: str = ""
    is_remark: bool = False
    """Whoever has no identity can bring it about alone: it is said, and changes nobody's state."""

    @property
    def key(self) -> tuple[Link, str, str]:
        return self.link, self.pod, self.reason

    def __str__(self) -> str:
        whose = f"pod {self.pod}: " if self.pod else ""
        return f"{whose}{self.link.word}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Standing:
    """A finding that holds now, and since when (seconds since the epoch)."""

    finding: Finding
    since: float


class Ledger:
    """The findings that stand. `update` takes those of a whole round of proofs."""

    def __init__(self) -> None:
        self._since: dict[tuple[Link, str, str], float] = {}
        self._standing: tuple[Standing, ...] = ()

    @property
    def standing(self) -> tuple[Standing, ...]:
        """Everything that is broken now: the whole node first, then by pod and link."""
        return self._standing

    def update(self, findings: Iterable[Finding], now: float) -> tuple[list[Finding], list[Finding]]:
        """Replace what stands; answers the findings that are new and those that are over."""
        before = {standing.finding.key: standing.finding for standing in self._standing}
        current = {finding.key: finding for finding in findings}
        self._since = {key: self._since.get(key, now) for key in current}
        ordered = sorted(current.values(), key=lambda f: (f.pod, f.link, f.reason))
        self._standing = tuple(Standing(finding, self._since[finding.key]) for finding in ordered)
        appeared = [finding for key, finding in current.items() if key not in before]
        return appeared, [finding for key, finding in before.items() if key not in current]


Check = Callable[[], Awaitable[list[Finding]]]
"""Observes one part of the chain and answers what it finds broken."""


def first_broken(standing: Iterable[Standing]) -> list[Standing]:
    """For the node and for each pod the first broken link: what is worth reading first. Remarks are none."""
    first: dict[str, Standing] = {}
    for each in standing:
        if each.finding.is_remark:
            continue
        known = first.get(each.finding.pod)
        if known is None or each.finding.link < known.finding.link:
            first[each.finding.pod] = each
    return [first[pod] for pod in sorted(first)]
