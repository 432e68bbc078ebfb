"""Accounts and namespaces that policies and limits name, and no workload has: misspelt, or not there yet. Pure.

Only what is written out counts, no pattern, and only what the mesh's own trust domains may say. Workloads of other
clusters and networks are not known here, so it is a note and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import AuthorizationPolicy, ConnectionLimit, Terms
from agent.controlplane.read.remarks import Remark, Scope
from agent.controlplane.translate.authorization_policy import is_of_another_domain, why_left_out
from agent.controlplane.translate.mesh import Mesh
from agent.controlplane.translate.remarking import remark

Account = tuple[str, str]
"""Namespace and name."""


def unknown_sources(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    """One remark for each place of a policy or limit and each name there that nobody has."""
    enforced: list[AuthorizationPolicy | ConnectionLimit] = [
        policy for policy in inventory.policies if not why_left_out(policy)
    ]
    enforced += inventory.connection_limits
    named = [
        (policy, place, what)
        for policy in enforced
        for place, terms in _sources(policy)
        for what in _named(terms, mesh)
    ]
    if not named:
        return
    accounts = frozenset(_accounts(inventory))
    namespaces = frozenset(namespace for namespace, _ in accounts)
    for policy, place, (namespace, account) in named:
        if account and (namespace, account) not in accounts:
            problem = f"no workload has the service account {namespace}/{account}, so it matches nobody"
        elif namespace not in namespaces:
            problem = f"namespace {namespace} has no workloads, so it matches nobody"
        else:
            continue
        yield remark(policy, problem, field=place, is_note=True)


def of_other_domains(
    policy: AuthorizationPolicy | ConnectionLimit,
    principals: Iterable[tuple[str, str]],
    mesh: Mesh,
    scope: Scope,
) -> Iterator[Remark]:
    """One remark for each of the principals, with its place, that is of a trust domain nobody here has."""
    here = ", ".join(mesh.trust_domains)
    for path, text in principals:
        if is_of_another_domain(text, mesh):
            yield remark(
                policy,
                f"nobody can be {text!r}: the trust domain here is {here}",
                f"write {mesh.trust_domain}/ns/NAMESPACE/sa/ACCOUNT",
                scope,
                field=path,
            )


def _sources(policy: AuthorizationPolicy | ConnectionLimit) -> Iterator[tuple[str, Terms]]:
    if isinstance(policy, ConnectionLimit):
        yield from ((f"spec.from[{i}].source", terms) for i, terms in enumerate(policy.sources))
        return
    for number, rule in enumerate(policy.rules):
        yield from ((f"spec.rules[{number}].from[{i}].source", terms) for i, terms in enumerate(rule.sources))
        yield from ((f"spec.rules[{number}].when[{i}]", terms) for i, terms in enumerate(rule.when))


def _named(terms: Terms, mesh: Mesh) -> Iterator[Account]:
    """Whom it asks for; an empty account: anybody of the namespace. What it excludes may well be nobody."""
    for text in terms.strings.get("principals", ()):
        domain, *rest = text.split("/")
        if "*" not in text and domain in mesh.trust_domains and len(rest) == 4 and rest[::2] == ["ns", "sa"]:
            yield rest[1], rest[3]
    yield from terms.accounts.get("service_accounts", ())
    yield from ((text, "") for text in terms.strings.get("namespaces", ()) if "*" not in text)


def _accounts(inventory: Inventory) -> Iterable[Account]:
    for pod in inventory.pods:
        yield pod.meta.namespace, pod.service_account
    for entry in inventory.workload_entries:
        yield entry.meta.namespace, entry.endpoint.service_account
    for service in inventory.service_entries:
        yield from ((service.meta.namespace, endpoint.service_account) for endpoint in service.endpoints)
