"""Random policies on random connections: `evaluate` always answers, and `explain` gives the same answer.

The third test holds `evaluate` against the sentences of docs/WIRE.md#policies written down a second time.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.address import parse_cidr
from agent.model.policy import (
    Action,
    Authorization,
    Clause,
    Match,
    RefusedPolicy,
    Rule,
    Scope,
    ServiceAccountMatch,
    StringMatch,
    StringMatchKind,
)
from agent.policy.evaluate import PolicySet, evaluate
from agent.policy.explain import explain
from tests.support.mesh import connection, identity, refusing, snapshot, workload

CIDRS = st.sampled_from(["10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "fd00::/64", "::/0"]).map(parse_cidr)
WORDS = ["", "apps", "cluster.local/ns/apps/sa/web", "web", "cluster"]
STRINGS = st.builds(StringMatch, st.sampled_from(StringMatchKind), st.sampled_from(WORDS))
ACCOUNTS = st.builds(ServiceAccountMatch, st.sampled_from(["apps", "shop"]), st.sampled_from(["web", "api"]))
KINDS = {
    "namespaces": STRINGS,
    "principals": STRINGS,
    "source_ips": CIDRS,
    "destination_ips": CIDRS,
    "destination_ports": st.sampled_from([80, 8080]),
    "service_accounts": ACCOUNTS,
}
GROUPS = {
    name: st.lists(kind, max_size=2).map(tuple)
    for group, kind in KINDS.items()
    for name in (group, f"not_{group}")
}
MATCHES = st.fixed_dictionaries({}, optional=GROUPS).map(lambda groups: Match(**groups))
CLAUSES = st.lists(MATCHES, max_size=2).map(lambda matches: Clause(tuple(matches)))
RULES = st.lists(CLAUSES, max_size=2).map(lambda clauses: Rule(tuple(clauses)))
POLICIES = st.builds(
    Authorization,
    st.sampled_from(["p0", "p1", "p2"]),
    st.sampled_from(["apps", "root"]),
    st.sampled_from(Scope),
    st.sampled_from(Action),
    st.lists(RULES, max_size=2).map(tuple),
    st.booleans(),
)
CONNECTIONS = st.builds(
    connection,
    st.sampled_from(["10.0.0.9:1", "192.0.2.1:1", "[fd00::9]:1"]),
    st.sampled_from(["10.0.0.1:80", "10.0.0.1:8080", "[fd00::1]:8080"]),
    st.none() | st.builds(identity, st.sampled_from(["web", "api"]), st.sampled_from(["apps", "shop", ""])),
)
LISTED = ["apps/p0", "root/p1", "apps/none", "apps/bad", "apps/converted_peer_authentication_x"]
REFUSED = st.dictionaries(
    st.sampled_from(["bad", "p0"]),
    st.builds(
        RefusedPolicy,
        st.just("wrong"),
        st.sampled_from(Scope),
        st.sampled_from(["apps", "root"]),
        st.booleans(),
    ),
)
TARGETS = st.lists(st.sampled_from(LISTED), max_size=3, unique=True).map(
    lambda names: workload("web", "10.0.0.1", authorization_policies=tuple(names))
)


@settings(max_examples=300)
@given(st.lists(POLICIES, max_size=4), CONNECTIONS, TARGETS, REFUSED)
def test_explain_reaches_the_verdict_of_evaluate(policies, conn, target, refused) -> None:
    snap = refusing(snapshot(*policies), **refused)
    decision, explanation = evaluate(conn, target, snap), explain(conn, target, snap)
    assert (decision.allowed, decision.reason) == (explanation.allowed, explanation.reason)
    assert decision.allowed is (decision.reason == "")
    matched = {(p.policy, p.action) for p in explanation.policies if p.matched and p.dry_run}
    assert {(m.policy, m.action) for m in decision.dry_run} == matched


@settings(max_examples=150)
@given(st.lists(POLICIES, max_size=4), CONNECTIONS, TARGETS)
def test_dry_run_policies_change_no_verdict(policies, conn, target) -> None:
    class Index:
        def __init__(self, kept) -> None:
            self.kept = kept

        def policies_for(self, _workload) -> PolicySet:
            return PolicySet.of(self.kept)

    enforced = [p for p in policies if not p.dry_run]
    with_dry, without = evaluate(conn, target, Index(policies)), evaluate(conn, target, Index(enforced))
    assert (with_dry.allowed, with_dry.reason) == (without.allowed, without.reason)


def sentence(match: Match, conn) -> bool:
    """docs/WIRE.md#policies, read aloud."""
    who = conn.identity
    text = {
        StringMatchKind.EXACT: lambda v, t: t == v,
        StringMatchKind.PREFIX: lambda v, t: t[: len(v)] == v,
        StringMatchKind.SUFFIX: lambda v, t: not v or t[-len(v) :] == v,
        StringMatchKind.PRESENCE: lambda v, t: len(t) > 0,
    }
    fits = {
        "namespaces": lambda m: text[m.kind](m.value, who.namespace if who else ""),
        "principals": lambda m: who is not None and text[m.kind](m.value, str(who)[len("spiffe://") :]),
        "source_ips": lambda c: conn.source.ip in c,
        "destination_ips": lambda c: conn.destination.ip in c,
        "destination_ports": lambda port: port == conn.destination.port,
        "service_accounts": lambda a: (
            who is not None and (a.namespace, a.service_account) == (who.namespace, who.service_account)
        ),
    }
    if match == Match():
        return False
    return all(
        (not getattr(match, group) or any(map(fits[group], getattr(match, group))))
        and not any(map(fits[group], getattr(match, f"not_{group}")))
        for group in KINDS
    )


@settings(max_examples=300)
@given(MATCHES, CONNECTIONS)
def test_one_match_means_what_the_sentences_say(match, conn) -> None:
    only = Authorization("d", "apps", Scope.GLOBAL, Action.DENY, (Rule((Clause((match,)),)),))
    assert evaluate(conn, workload("web"), snapshot(only)).allowed is not sentence(match, conn)
