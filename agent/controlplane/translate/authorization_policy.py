"""AuthorizationPolicy to `istio.security.Authorization`, as istiod does it, closed where it is open.

The form is docs/WIRE.md#translation. Differences, each towards the stricter side: a DENY rule that a node
proxy cannot judge denies (istiod sends an empty match, which never does); `selector: {}` means the whole
namespace (istiod lets nobody list it). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.controlplane.read.objects import AuthorizationPolicy, Rule, Terms
from agent.pb import authorization_pb2 as authz

DRY_RUN = "istio.io/dry-run"


def policy_name(policy: AuthorizationPolicy) -> str:
    return f"{policy.meta.namespace}/{policy.meta.name}"


def why_left_out(policy: AuthorizationPolicy) -> str | None:
    """The reason why node proxies are not sent this policy, or None."""
    if policy.is_targeted:
        return "it has a targetRef, so it is for waypoints; node proxies do not enforce it"
    if policy.action in ("AUDIT", "CUSTOM"):
        return f"action {policy.action} is for waypoints; node proxies do not enforce it"
    if policy.meta.annotations.get(DRY_RUN) == "true":
        return f"annotation {DRY_RUN} is set; it is not enforced"
    return None


def unjudged(policy: AuthorizationPolicy) -> str | None:
    """A warning about fields that need HTTP, or None."""
    names = sorted({name for rule in policy.rules for name in rule.beyond})
    if not names:
        return None
    effect = "rules with them are left out" if policy.action == "ALLOW" else "their rules deny without them"
    return f"{', '.join(names)}: need HTTP, which node proxies do not read; {effect}"


def translate_policy(policy: AuthorizationPolicy, root_namespace: str) -> authz.Authorization:
    return authz.Authorization(
        name=policy.meta.name,
        namespace=policy.meta.namespace,
        scope=_scope(policy, root_namespace),
        action=authz.DENY if policy.action == "DENY" else authz.ALLOW,
        rules=list(_rules(policy)),
    )


def _scope(policy: AuthorizationPolicy, root_namespace: str) -> authz.Scope:
    if policy.selector:
        return authz.WORKLOAD_SELECTOR
    return authz.GLOBAL if policy.meta.namespace == root_namespace else authz.NAMESPACE


def _rules(policy: AuthorizationPolicy) -> Iterator[authz.Rule]:
    for rule in policy.rules:
        if policy.action == "ALLOW":
            if not rule.beyond:
                yield authz.Rule(clauses=list(_allow_clauses(rule)))
        else:
            yield authz.Rule(clauses=list(_deny_clauses(rule)))


def _alternatives(rule: Rule) -> Iterator[tuple[Terms, ...]]:
    """The clauses of a rule in the order of the wire: to, from, then each condition."""
    yield from filter(None, (rule.to, rule.sources))
    yield from ((condition,) for condition in rule.when)


def _allow_clauses(rule: Rule) -> Iterator[authz.Clause]:
    for alternatives in _alternatives(rule):
        yield authz.Clause(matches=[_match(terms) for terms in alternatives])


def _deny_clauses(rule: Rule) -> Iterator[authz.Clause]:
    """Security: an alternative that says nothing judgeable makes the clause true, so the rule denies more."""
    for alternatives in _alternatives(rule):
        matches = [_match(terms) for terms in alternatives]
        if all(match.ByteSize() for match in matches):
            yield authz.Clause(matches=matches)


def _match(terms: Terms) -> authz.Match:
    match = authz.Match()
    for name, texts in terms.strings.items():
        getattr(match, name).extend(map(_string_match, texts))
    for name, ranges in terms.ranges.items():
        getattr(match, name).extend(authz.Address(address=ip.packed, length=n) for ip, n in ranges)
    for name, ports in terms.ports.items():
        getattr(match, name).extend(ports)
    for name, accounts in terms.accounts.items():
        getattr(match, name).extend(
            authz.ServiceAccountMatch(namespace=namespace, serviceAccount=account)
            for namespace, account in accounts
        )
    return match


def _string_match(text: str) -> authz.StringMatch:
    if text == "*":
        match = authz.StringMatch()
        match.presence.SetInParent()
        return match
    if text.startswith("*"):
        return authz.StringMatch(suffix=text[1:])
    if text.endswith("*"):
        return authz.StringMatch(prefix=text[:-1])
    return authz.StringMatch(exact=text)
