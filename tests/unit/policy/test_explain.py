"""The walk that people read: what matched, what failed and on which group."""

from __future__ import annotations

from agent.model.policy import Action, Authorization, Clause, Match, Rule, Scope
from agent.policy.explain import ClauseReport, MatchReport, explain
from tests.support.mesh import allow, connection, deny, exact, identity, snapshot, workload

WEB = workload("web", "10.0.0.1")
CALL = connection(who=identity())


def test_failed_match_names_its_groups() -> None:
    match = Match(destination_ports=(80,), principals=(exact("x"),), namespaces=(exact("apps"),))
    explanation = explain(CALL, WEB, snapshot(allow("a", match)))
    assert not explanation.allowed
    assert explanation.reason == "allow policies exist, but none allowed"
    [clause] = explanation.policies[0].rules[0].clauses
    assert clause == ClauseReport(
        False, (MatchReport(False, ("destination_ports", "principals"), empty=False),)
    )


def test_empty_match_is_told_apart_from_one_that_failed() -> None:
    explanation = explain(CALL, WEB, snapshot(deny("d", Match())))
    [match] = explanation.policies[0].rules[0].clauses[0].matches
    assert match == MatchReport(False, (), empty=True)
    assert explanation.allowed


def test_walk_does_not_stop_at_the_first_answer() -> None:
    yes = Match(destination_ports=(8080,))
    rules = (Rule((Clause((yes, Match())), Clause())), Rule((Clause((yes,)),)))
    every = Authorization("d", "apps", Scope.NAMESPACE, Action.DENY, rules)
    explanation = explain(CALL, WEB, snapshot(every, allow("a"), deny("dry", yes, dry_run=True)))
    assert explanation.reason == "explicitly denied by: apps/d"
    assert [(p.policy, p.matched, p.dry_run) for p in explanation.policies] == [
        ("apps/d", True, False),
        ("apps/a", False, False),
        ("apps/dry", True, True),
    ]
    assert [len(r.clauses) for r in explanation.policies[0].rules] == [2, 1]


def test_missing_policies_are_listed() -> None:
    listing = workload("web", "10.0.0.1", authorization_policies=("apps/x", "apps/y"))
    explanation = explain(CALL, listing, snapshot())
    assert [missing.name for missing in explanation.missing] == ["apps/x", "apps/y"]
    assert explanation.reason == "policy apps/x is listed by the workload but not received yet"
