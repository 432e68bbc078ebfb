"""Which policies apply, and what they decide together (docs/WIRE.md#policies)."""

from __future__ import annotations

import pytest

from agent.model.policy import Action, Authorization, Match, Scope
from agent.model.workload import Workload
from agent.policy.evaluate import DryRunMatch, evaluate
from tests.support.mesh import allow, connection, deny, identity, snapshot, workload

YES, NO = Match(destination_ports=(8080,)), Match(destination_ports=(1,))
WEB = workload("web", "10.0.0.1")
CALL = connection(who=identity())
NONE_ALLOWED = "allow policies exist, but none allowed"
SELECTOR = Scope.WORKLOAD_SELECTOR


def selecting(*names: str) -> Workload:
    return workload("web", "10.0.0.1", authorization_policies=names)


@pytest.mark.parametrize(
    ("policies", "allowed", "reason", "policy"),
    [
        pytest.param([], True, "", None, id="no policies"),
        pytest.param([allow("a", YES)], True, "", "apps/a", id="allow matches"),
        pytest.param([allow("a", NO)], False, NONE_ALLOWED, None, id="allow does not match"),
        pytest.param([allow("a")], False, NONE_ALLOWED, None, id="allow without rules denies all"),
        pytest.param([allow("a", Match())], False, NONE_ALLOWED, None, id="allow with an empty match"),
        pytest.param([allow("a", NO, YES)], True, "", "apps/a", id="second rule allows"),
        pytest.param([allow("a", NO), allow("b", YES)], True, "", "apps/b", id="one of two allows"),
        pytest.param([deny("d", YES)], False, "explicitly denied by: apps/d", "apps/d", id="deny matches"),
        pytest.param([deny("d", NO)], True, "", None, id="deny does not match"),
        pytest.param([deny("d")], True, "", None, id="deny without rules is nothing"),
        pytest.param([deny("d", Match())], True, "", None, id="deny with an empty match is nothing"),
        pytest.param(
            [allow("a", YES), deny("d", YES)],
            False,
            "explicitly denied by: apps/d",
            "apps/d",
            id="deny before allow",
        ),
        pytest.param([deny("d", NO), allow("a", YES)], True, "", "apps/a", id="deny misses, allow matches"),
        pytest.param([deny("d", NO), allow("a", NO)], False, NONE_ALLOWED, None, id="both miss"),
    ],
)
def test_decision(policies: list[Authorization], allowed: bool, reason: str, policy: str | None) -> None:
    decision = evaluate(CALL, WEB, snapshot(*policies))
    assert (decision.allowed, decision.reason, decision.policy) == (allowed, reason, policy)


def test_decision_names_the_rule() -> None:
    assert evaluate(CALL, WEB, snapshot(deny("d", NO, YES))).rule == 1
    assert evaluate(CALL, WEB, snapshot(allow("a", NO, NO, YES))).rule == 2
    assert evaluate(CALL, WEB, snapshot(allow("a", NO))).rule is None


@pytest.mark.parametrize(
    ("policy", "listed", "applies"),
    [
        (deny("d", YES), (), True),
        (deny("d", YES, namespace="shop"), (), False),
        (deny("d", YES, namespace=""), (), False),
        (deny("d", YES, namespace="istio-system", scope=Scope.GLOBAL), (), True),
        (deny("d", YES, scope=SELECTOR), (), False),
        (deny("d", YES, scope=SELECTOR), ("apps/d",), True),
        (deny("d", YES, namespace="root", scope=SELECTOR), ("root/d",), True),
    ],
)
def test_scope(policy: Authorization, listed: tuple[str, ...], applies: bool) -> None:
    decision = evaluate(CALL, selecting(*listed), snapshot(policy))
    assert decision.allowed is not applies


def test_policy_that_is_listed_and_in_scope_counts_once() -> None:
    dry = deny("d", YES, dry_run=True)
    assert len(evaluate(CALL, selecting("apps/d"), snapshot(dry)).dry_run) == 1


def test_listed_policy_that_was_not_received_denies() -> None:
    decision = evaluate(CALL, selecting("apps/late"), snapshot(allow("a", YES)))
    assert not decision.allowed
    assert decision.reason == "policy apps/late is listed by the workload but not received yet"
    arrived = snapshot(allow("a", YES), deny("late", NO, scope=SELECTOR))
    assert evaluate(CALL, selecting("apps/late"), arrived).allowed


def test_matching_deny_is_named_before_a_missing_policy() -> None:
    decision = evaluate(CALL, selecting("apps/late"), snapshot(deny("d", YES)))
    assert decision.reason == "explicitly denied by: apps/d"


DRY_DENY, DRY_ALLOW = deny("dd", YES, dry_run=True), allow("da", YES, dry_run=True)
DENIED, ALLOWED = DryRunMatch("apps/dd", Action.DENY, 0), DryRunMatch("apps/da", Action.ALLOW, 0)


@pytest.mark.parametrize(
    ("policies", "allowed", "dry_run", "missed"),
    [
        pytest.param([DRY_DENY], True, (DENIED,), False, id="dry deny never denies"),
        pytest.param([DRY_ALLOW], True, (ALLOWED,), False, id="dry allow alone allows all"),
        pytest.param([allow("da", NO, dry_run=True)], True, (), True, id="dry allow that misses is told"),
        pytest.param([allow("a", NO), DRY_ALLOW], False, (ALLOWED,), False, id="dry allow does not allow"),
        pytest.param([allow("a", YES), DRY_DENY], True, (DENIED,), False, id="allow with dry deny"),
        pytest.param([deny("d", YES), DRY_DENY], False, (DENIED,), False, id="deny with dry deny"),
        pytest.param([DRY_DENY, DRY_ALLOW], True, (DENIED, ALLOWED), False, id="both dry"),
        pytest.param(
            [allow("a", YES), allow("da", NO, dry_run=True)], True, (), False, id="an enforced allow decides"
        ),
    ],
)
def test_dry_run(
    policies: list[Authorization], allowed: bool, dry_run: tuple[DryRunMatch, ...], missed: bool
) -> None:
    decision = evaluate(CALL, WEB, snapshot(*policies))
    assert (decision.allowed, set(decision.dry_run)) == (allowed, set(dry_run))
    assert decision.dry_run_allow_missed is missed


def test_decision_follows_the_workload_not_the_namespace_of_the_peer() -> None:
    policies = snapshot(deny("d", YES, namespace="shop"))
    assert evaluate(connection(who=identity("api", "shop")), WEB, policies).allowed
    assert not evaluate(CALL, workload("db", "10.0.0.1", namespace="shop"), policies).allowed
