"""Which policies apply, and what they decide together (docs/WIRE.md#policies)."""

from __future__ import annotations

import pytest

from agent.model.address import parse_cidr
from agent.model.policy import Action, Authorization, Match, RefusedPolicy, Scope
from agent.model.workload import Workload
from agent.policy.evaluate import VERDICTS_KEPT, DryRunMatch, evaluate
from agent.state.apply import apply
from tests.support.mesh import allow, batch, connection, deny, exact, identity, refusing, snapshot, workload

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


CONVERTED = "apps/converted_peer_authentication_strict-port"
STATIC = "istio-system/istio_converted_static_strict"
PLAIN = connection(who=None)


@pytest.mark.parametrize("name", [CONVERTED, STATIC])
def test_a_missing_converted_peer_authentication_denies_plaintext_only(name: str) -> None:
    target, empty = selecting(name), snapshot()
    refused = evaluate(PLAIN, target, empty)
    assert (refused.allowed, refused.policy) == (False, name)
    assert refused.reason == (
        f"policy {name} is listed by the workload but not received yet: "
        "until it is in force, only peers with a proven identity are let in"
    )
    assert evaluate(CALL, target, empty).allowed


@pytest.mark.parametrize(
    ("policies", "reason"),
    [
        ([allow("a", YES)], ""),
        ([allow("a", NO)], NONE_ALLOWED),
        ([deny("d", YES), allow("a", YES)], "explicitly denied by: apps/d"),
    ],
)
def test_with_an_identity_the_rest_decides(policies: list[Authorization], reason: str) -> None:
    assert evaluate(CALL, selecting(CONVERTED), snapshot(*policies)).reason == reason
    assert not evaluate(PLAIN, selecting(CONVERTED), snapshot(*policies)).allowed


@pytest.mark.parametrize(
    "name", ["apps/converted-peer-authentication-x", "apps/not_converted_peer_authentication_x",
             "converted_peer_authentication_x/late", "apps/istio_converted_static_strict_x"]
)  # fmt: skip
def test_no_other_name_passes_for_a_converted_one(name: str) -> None:
    assert not evaluate(CALL, selecting(name), snapshot()).allowed


def test_any_other_missing_policy_denies_beside_a_converted_one() -> None:
    for names in ((CONVERTED, "apps/late"), ("apps/late", CONVERTED)):
        decision = evaluate(CALL, selecting(*names), snapshot(allow("a", YES)))
        assert (decision.allowed, decision.policy) == (False, "apps/late")


def refused(scope: Scope = SELECTOR, namespace: str = "apps", **more: bool) -> RefusedPolicy:
    return RefusedPolicy("rules[0]: it is wrong", scope, namespace, **more)


def test_a_listed_policy_that_was_refused_denies_and_says_why() -> None:
    index = refusing(snapshot(allow("a", YES)), bad=refused())
    decision = evaluate(CALL, selecting("apps/bad"), index)
    assert decision.reason == "policy apps/bad was refused by this agent (rules[0]: it is wrong)"
    assert evaluate(CALL, WEB, index).allowed, "it does not list it"


@pytest.mark.parametrize(
    ("policy", "web", "elsewhere"),
    [
        (refused(Scope.GLOBAL, ""), False, False),
        (refused(Scope.NAMESPACE), False, True),
        (refused(Scope.NAMESPACE, "shop"), True, False),
        (refused(SELECTOR), True, True),
        (refused(Scope.GLOBAL, dry_run=True), True, True),
    ],
)
def test_a_refused_policy_about_everybody_denies_them(
    policy: RefusedPolicy, web: bool, elsewhere: bool
) -> None:
    index = refusing(snapshot(), bad=policy)
    assert evaluate(CALL, WEB, index).allowed is web
    assert evaluate(CALL, workload("db", "10.0.0.1", namespace="shop"), index).allowed is elsewhere


def test_the_version_before_a_refused_one_stays_in_force() -> None:
    before = snapshot(deny("p", NO), allow("a", YES))
    index = refusing(before, p=refused(Scope.NAMESPACE))
    assert evaluate(CALL, WEB, index).allowed
    assert not evaluate(CALL, WEB, refusing(snapshot(deny("p", YES)), p=refused())).allowed


def test_what_was_refused_and_is_so_no_more_denies_no_more() -> None:
    index = refusing(snapshot(), bad=refused(Scope.GLOBAL))
    assert not evaluate(CALL, WEB, index).allowed
    assert evaluate(CALL, WEB, refusing(index)).allowed


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


def test_a_verdict_stands_for_no_connection_that_policy_could_tell_from_it() -> None:
    match = Match(
        source_ips=(parse_cidr("10.0.0.9"),),
        destination_ports=(8080,),
        principals=(exact(identity().principal),),
    )
    state = snapshot(allow("a", match))
    others = [
        connection(source="10.0.0.8:40000", who=identity()),
        connection(destination="10.0.0.1:8081", who=identity()),
        connection(who=identity("other")),
        connection(),
    ]
    for _ in range(2):
        assert evaluate(CALL, WEB, state).allowed
        assert [evaluate(each, WEB, state).allowed for each in others] == [False] * 4
    assert not evaluate(CALL, WEB, apply(state, batch(deny("d", YES)))[0]).allowed


def test_verdicts_that_are_kept_have_a_limit() -> None:
    state = snapshot(allow("a", YES))
    for port in range(1, VERDICTS_KEPT + 50):
        assert evaluate(connection(destination=f"10.0.0.1:{port}"), WEB, state).allowed == (port == 8080)
    assert len(state.policies_for(WEB).verdicts) <= VERDICTS_KEPT
