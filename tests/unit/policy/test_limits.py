"""Which limits one client has: of all that are about it, the lowest of each kind."""

from __future__ import annotations

from agent.model.limits import ConnectionLimit, Limits
from agent.model.policy import Match, StringMatch, StringMatchKind
from agent.policy.limits import UNBOUND, Bound, bounds_of
from agent.policy.match import Subject, subject_of
from tests.support import mesh

ALL = ConnectionLimit("all", Limits(100, None, 5000))


def exact(principal: str) -> tuple[StringMatch, ...]:
    return (StringMatch(StringMatchKind.EXACT, principal),)


FRONT = ConnectionLimit("front", Limits(10, 3), (Match(principals=exact("cluster.local/ns/apps/sa/front")),))
NOT_FRONT = ConnectionLimit(
    "others", Limits(2), (Match(not_principals=exact("cluster.local/ns/apps/sa/front")),)
)


def client(account: str | None) -> Subject:
    return subject_of(mesh.connection(who=mesh.identity(account) if account else None))


def test_the_lowest_of_each_kind_holds_whatever_the_order() -> None:
    for limits in ([ALL, FRONT, NOT_FRONT], [NOT_FRONT, FRONT, ALL]):
        assert bounds_of(limits, client("front")) == (
            Bound(10, "front"),
            Bound(3, "front"),
            Bound(5000, "all"),
        )
        assert bounds_of(limits, client("back")) == (Bound(2, "others"), None, Bound(5000, "all"))


def test_a_client_without_an_identity_is_nobody_that_is_named() -> None:
    assert bounds_of([FRONT], client(None)) == UNBOUND
    assert bounds_of([NOT_FRONT], client(None)).connections == Bound(2, "others")


def test_zero_is_a_limit() -> None:
    closed = ConnectionLimit("closed", Limits(connections=0))
    assert bounds_of([ALL, closed], client("front")).connections == Bound(0, "closed")
