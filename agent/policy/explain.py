"""Why a connection is allowed or denied: every policy, rule, clause and match with its answer.

The same predicates as `evaluate`, walked to the end and written down as plain values for people (the CLI
and the admin server print them). It must reach the verdict of `evaluate` on its own; a property test
holds the two together. Not for the data path: it never stops early.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.connection import Connection
from agent.model.policy import Action, Authorization, Clause, Match, Rule, Scope
from agent.model.workload import Workload
from agent.policy.evaluate import NONE_ALLOWED, PolicyIndex, denied_by
from agent.policy.match import GROUPS, Subject, subject_of
from agent.policy.missing import MissingPolicy


@dataclass(frozen=True, slots=True)
class MatchReport:
    """One Match. `failed` names the groups that did not hold; `empty`: it restricts nothing, so never."""

    matched: bool
    failed: tuple[str, ...]
    empty: bool


@dataclass(frozen=True, slots=True)
class ClauseReport:
    matched: bool
    matches: tuple[MatchReport, ...]


@dataclass(frozen=True, slots=True)
class RuleReport:
    matched: bool
    clauses: tuple[ClauseReport, ...]


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """One policy that applies to the destination, and whether any of its rules matched."""

    policy: str
    scope: Scope
    action: Action
    dry_run: bool
    matched: bool
    rules: tuple[RuleReport, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict with everything that led to it. `missing`: policies that apply and are not in force here."""

    allowed: bool
    reason: str
    policies: tuple[PolicyReport, ...]
    missing: tuple[MissingPolicy, ...]


def explain(connection: Connection, destination: Workload, policies: PolicyIndex) -> Explanation:
    """What `evaluate` decides on the same arguments, with the whole walk."""
    applicable = policies.policies_for(destination)
    subject = subject_of(connection)
    reports = tuple(
        _explain_policy(policy, subject) for policy in applicable.deny + applicable.allow + applicable.dry_run
    )
    reason = _refusal(reports, applicable.missing, subject)
    return Explanation(reason == "", reason, reports, applicable.missing)


def _refusal(reports: tuple[PolicyReport, ...], missing: tuple[MissingPolicy, ...], subject: Subject) -> str:
    """The reason to deny, empty if there is none."""
    enforced = [r for r in reports if not r.dry_run]
    denies = [r for r in enforced if r.action is Action.DENY and r.matched]
    allows = [r for r in enforced if r.action is Action.ALLOW]
    if denies:
        return denied_by(denies[0].policy)
    decisive = [m for m in missing if subject.identity is None or not m.demands_identity_only]
    if decisive:
        return decisive[0].reason
    if allows and not any(r.matched for r in allows):
        return NONE_ALLOWED
    return ""


def _explain_policy(policy: Authorization, subject: Subject) -> PolicyReport:
    rules = tuple(_explain_rule(rule, subject) for rule in policy.rules)
    return PolicyReport(
        policy.key, policy.scope, policy.action, policy.dry_run, any(r.matched for r in rules), rules
    )


def _explain_rule(rule: Rule, subject: Subject) -> RuleReport:
    clauses = tuple(_explain_clause(clause, subject) for clause in rule.clauses)
    return RuleReport(all(c.matched for c in clauses), clauses)


def _explain_clause(clause: Clause, subject: Subject) -> ClauseReport:
    matches = tuple(_explain_match(match, subject) for match in clause.matches)
    return ClauseReport(not matches or any(m.matched for m in matches), matches)


def _explain_match(match: Match, subject: Subject) -> MatchReport:
    failed = tuple(group.name for group in GROUPS if not group.holds(match, subject))
    empty = not any(group.restricts(match) for group in GROUPS)
    return MatchReport(not failed and not empty, failed, empty)
