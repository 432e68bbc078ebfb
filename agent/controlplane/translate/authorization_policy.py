"""AuthorizationPolicy to `istio.security.Authorization`, as istiod does it, closed where it is open.

The form is docs/WIRE.md#translation. Differences: a DENY rule that a node proxy cannot judge denies (istiod sends
an empty match, which never does); `selector: {}` means the whole namespace (istiod lets nobody list it); a principal
of one of the mesh's trust domains is one of all of them, as in istiod's sidecars. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.controlplane.read.objects import AuthorizationPolicy, Rule, Terms
from agent.controlplane.read.security_kinds import DRY_RUN
from agent.controlplane.translate.mesh import Mesh
from agent.pb import authorization_pb2 as authz

DENIES_MORE = "denies more"
"""The outcome of a DENY of what node proxies cannot read."""
PRINCIPALS = ("principals", "not_principals")


def policy_name(policy: AuthorizationPolicy, mesh: Mesh) -> str:
    return f"{policy.meta.namespace or mesh.root_namespace}/{policy.meta.name}"


def why_left_out(policy: AuthorizationPolicy) -> str | None:
    """The reason why node proxies are not sent this policy, or None."""
    if policy.is_targeted:
        return "it has a targetRef, so it is for waypoints; node proxies do not enforce it"
    if policy.action in ("AUDIT", "CUSTOM"):
        return f"action {policy.action} is for waypoints; node proxies do not enforce it"
    if policy.meta.annotations.get(DRY_RUN) == "true":
        return f"annotation {DRY_RUN} is set; it is not enforced"
    return None


def beyond_nodes(policy: AuthorizationPolicy) -> str:
    """What it says that needs HTTP, and what comes of it; empty where it says no such thing."""
    beyond = sorted({name for rule in policy.rules for name in rule.beyond})
    if not beyond:
        return ""
    less = "rules with them are left out, so it lets in less than it says"
    effect = (
        less if policy.action == "ALLOW" else "its rules deny without them, so it denies more than it says"
    )
    return f"{', '.join(beyond)}: are of HTTP or TLS, which node proxies do not read; {effect}"


def translate_policy(policy: AuthorizationPolicy, mesh: Mesh) -> authz.Authorization:
    return authz.Authorization(
        name=policy.meta.name,
        namespace=policy.meta.namespace or mesh.root_namespace,
        scope=_scope(policy, mesh),
        action=authz.DENY if policy.action == "DENY" else authz.ALLOW,
        rules=list(_rules(policy, mesh)),
    )


def _scope(policy: AuthorizationPolicy, mesh: Mesh) -> authz.Scope:
    if policy.selector:
        return authz.WORKLOAD_SELECTOR
    return authz.GLOBAL if policy.meta.namespace in ("", mesh.root_namespace) else authz.NAMESPACE


def _rules(policy: AuthorizationPolicy, mesh: Mesh) -> Iterator[authz.Rule]:
    for rule in policy.rules:
        if policy.action == "ALLOW":
            if not rule.beyond:
                yield authz.Rule(clauses=list(_allow_clauses(rule, mesh)))
        else:
            yield authz.Rule(clauses=list(_deny_clauses(rule, mesh)))


def _alternatives(rule: Rule) -> Iterator[tuple[Terms, ...]]:
    """The clauses of a rule in the order of the wire: to, from, then each condition."""
    yield from filter(None, (rule.to, rule.sources))
    yield from ((condition,) for condition in rule.when)


def _allow_clauses(rule: Rule, mesh: Mesh) -> Iterator[authz.Clause]:
    for alternatives in _alternatives(rule):
        yield authz.Clause(matches=[match_of(terms, mesh) for terms in alternatives])


def _deny_clauses(rule: Rule, mesh: Mesh) -> Iterator[authz.Clause]:
    """Security: an alternative that says nothing judgeable makes the clause true, so the rule denies more."""
    for alternatives in _alternatives(rule):
        matches = [match_of(terms, mesh) for terms in alternatives]
        if all(match.ByteSize() for match in matches):
            yield authz.Clause(matches=matches)


def match_of(terms: Terms, mesh: Mesh) -> authz.Match:
    match = authz.Match()
    for name, texts in terms.strings.items():
        if name in PRINCIPALS and mesh.aliases:
            texts = tuple(dict.fromkeys(t for text in texts for t in of_every_domain(text, mesh)))
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


def of_every_domain(principal: str, mesh: Mesh) -> Iterator[str]:
    """The principal, under each of the mesh's trust domains if it names one of them."""
    domain, slash, rest = principal.partition("/")
    if slash and domain in mesh.trust_domains:
        yield from (f"{each}/{rest}" for each in mesh.trust_domains)
    else:
        yield principal


def is_of_another_domain(principal: str, mesh: Mesh) -> bool:
    """Whether no identity of this mesh can have it: its trust domain is none of the mesh's."""
    if principal.startswith("*"):
        return False
    domain, slash, _ = principal.partition("/")
    if slash or not principal.endswith("*"):
        return domain not in mesh.trust_domains
    return not any(each.startswith(domain[:-1]) for each in mesh.trust_domains)


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
