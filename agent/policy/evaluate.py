"""May this connection reach this workload? The decision of docs/WIRE.md#policies.

Pure: the connection, the destination and the policies come in, a Decision goes out; who asks closes or
relays. Deny comes before allow, dry-run policies are reported and never decide, and what applies but is not
in force here denies (`missing`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from agent.model.connection import Connection
from agent.model.policy import Action, Authorization
from agent.model.workload import Workload
from agent.policy.match import Subject, matching_rule, subject_of
from agent.policy.missing import MissingPolicy

VERDICTS_KEPT = 1024
NONE_ALLOWED = "allow policies exist, but none allowed"


@dataclass(frozen=True, slots=True)
class DryRunMatch:
    """A dry-run policy that would have decided, with the rule that matched."""

    policy: str
    action: Action
    rule: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict. `reason` is empty when allowed; `policy` and `rule` name what decided, if one did.

    `dry_run` lists every dry-run policy that matched; `dry_run_allow_missed` is true when the only allow
    policies are dry-run ones and none matched: enforced, they would have denied.
    """

    allowed: bool
    reason: str = ""
    policy: str | None = None
    rule: int | None = None
    dry_run: tuple[DryRunMatch, ...] = ()
    dry_run_allow_missed: bool = False


ALLOWED = Decision(True)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policies that apply to one destination, sorted by what they do."""

    deny: tuple[Authorization, ...] = ()
    allow: tuple[Authorization, ...] = ()
    dry_run: tuple[Authorization, ...] = ()
    missing: tuple[MissingPolicy, ...] = ()
    """Those that apply too, and are not in force here."""
    verdicts: dict[Subject, Decision] = field(default_factory=dict, compare=False, repr=False)
    """Those made before: a pair of pods opens many connections that look alike to all policies."""

    @classmethod
    def of(cls, policies: Iterable[Authorization], missing: tuple[MissingPolicy, ...] = ()) -> PolicySet:
        policies = tuple(policies)
        enforced = [p for p in policies if not p.dry_run]
        return cls(
            deny=tuple(p for p in enforced if p.action is Action.DENY),
            allow=tuple(p for p in enforced if p.action is Action.ALLOW),
            dry_run=tuple(p for p in policies if p.dry_run),
            missing=missing,
        )


class PolicyIndex(Protocol):
    """Knows which policies apply to a workload; a snapshot does."""

    def policies_for(self, workload: Workload) -> PolicySet: ...


def denied_by(policy: str) -> str:
    return f"explicitly denied by: {policy}"


def evaluate(connection: Connection, destination: Workload, policies: PolicyIndex) -> Decision:
    """Decide on a connection at its destination."""
    applicable = policies.policies_for(destination)
    subject = subject_of(connection)
    known = applicable.verdicts.get(subject)
    if known is not None:
        return known
    decision = _decide(applicable, subject)
    if applicable.dry_run:
        decision = _with_dry_run(decision, applicable, subject)
    if len(applicable.verdicts) >= VERDICTS_KEPT:
        applicable.verdicts.clear()
    applicable.verdicts[subject] = decision
    return decision


def _decide(policies: PolicySet, subject: Subject) -> Decision:
    for policy in policies.deny:
        rule = matching_rule(policy.rules, subject)
        if rule is not None:
            return Decision(False, denied_by(policy.key), policy.key, rule)
    for missing in policies.missing:
        if subject.identity is None or not missing.demands_identity_only:
            return Decision(False, missing.reason, missing.name)
    if not policies.allow:
        return ALLOWED
    for policy in policies.allow:
        rule = matching_rule(policy.rules, subject)
        if rule is not None:
            return Decision(True, "", policy.key, rule)
    return Decision(False, NONE_ALLOWED)


def _with_dry_run(decision: Decision, policies: PolicySet, subject: Subject) -> Decision:
    matched = tuple(
        DryRunMatch(policy.key, policy.action, rule)
        for policy in policies.dry_run
        if (rule := matching_rule(policy.rules, subject)) is not None
    )
    has_dry_allow = any(p.action is Action.ALLOW for p in policies.dry_run)
    allow_matched = any(m.action is Action.ALLOW for m in matched)
    return Decision(
        decision.allowed,
        decision.reason,
        decision.policy,
        decision.rule,
        matched,
        has_dry_allow and not policies.allow and not allow_matched,
    )
