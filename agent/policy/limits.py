"""Which limits one client has at one pod: of all that are about it, the lowest of each kind. Pure.

So another limit never lets in more, whatever it says, and their order says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.model.limits import ConnectionLimit
from agent.policy.match import Subject, match_matches


class Bound(NamedTuple):
    """A number, and whose it is."""

    most: int
    name: str


class Bounds(NamedTuple):
    """What holds for one client; None: no limit."""

    connections: Bound | None = None
    new_per_second: Bound | None = None
    bytes_per_second: Bound | None = None


UNBOUND = Bounds()


def bounds_of(limits: Iterable[ConnectionLimit], client: Subject) -> Bounds:
    connections: Bound | None = None
    new_per_second: Bound | None = None
    bytes_per_second: Bound | None = None
    for limit in limits:
        if not is_about(limit, client):
            continue
        said = limit.limits
        connections = _lower(connections, said.connections, limit.name)
        new_per_second = _lower(new_per_second, said.new_per_second, limit.name)
        bytes_per_second = _lower(bytes_per_second, said.bytes_per_second, limit.name)
    return Bounds(connections, new_per_second, bytes_per_second)


def is_about(limit: ConnectionLimit, client: Subject) -> bool:
    for match in limit.clients:
        if match_matches(match, client):
            return True
    return not limit.clients


def _lower(bound: Bound | None, most: int | None, name: str) -> Bound | None:
    if most is None or (bound is not None and bound.most <= most):
        return bound
    return Bound(most, name)
