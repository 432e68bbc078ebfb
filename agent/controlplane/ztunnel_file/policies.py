"""Policies of ztunnel's file, as discovery has them. Pure; raises ManifestError with file, line and field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.controlplane.read.fields import Field
from agent.controlplane.ztunnel_file.words import MAX_PORT, cidr, only
from agent.pb import authorization_pb2 as authz

SCOPES = {"Global": authz.GLOBAL, "Namespace": authz.NAMESPACE, "WorkloadSelector": authz.WORKLOAD_SELECTOR}
ACTIONS = {"Allow": authz.ALLOW, "Deny": authz.DENY}
STRINGS = {"Exact": "exact", "Prefix": "prefix", "Suffix": "suffix"}


def policy(at: Field) -> authz.Authorization:
    only(at, "name", "namespace", "scope", "action", "rules", "dryRun")
    made = authz.Authorization(
        name=at.get("name").text(),
        namespace=at.get("namespace").text(),
        scope=SCOPES[at.get("scope").one_of(*SCOPES)],
        action=ACTIONS[at.get("action").one_of(*ACTIONS)],
        dry_run=at.get("dryRun").boolean(),
    )
    for rule in at.get("rules").each():
        clauses = made.rules.add().clauses
        for clause in rule.each():
            matches = clauses.add().matches
            for match in clause.each():
                _match(match, matches.add())
    return made


def _match(at: Field, into: Any) -> None:
    only(at, *GROUPS)
    for key, (field, add) in GROUPS.items():
        for each in at.get(key).each():
            add(each, getattr(into, field))


def _string(at: Field, into: Any) -> None:
    """`{Exact: TEXT}`, or Prefix, Suffix, `{Presence: []}`."""
    said = list(at.names())
    if len(said) != 1 or said[0] not in (*STRINGS, "Presence"):
        raise at.error(f"it must have one of {', '.join((*STRINGS, 'Presence'))}, and nothing else")
    match = into.add()
    if said[0] == "Presence":
        match.presence.SetInParent()
    else:
        setattr(match, STRINGS[said[0]], at.get(said[0]).text())


def _account(at: Field, into: Any) -> None:
    only(at, "namespace", "serviceAccount")
    into.add(namespace=at.get("namespace").text(), serviceAccount=at.get("serviceAccount").text())


def _range(at: Field, into: Any) -> None:
    network = cidr(at)
    into.add(address=network.network_address.packed, length=network.prefixlen)


def _port(at: Field, into: Any) -> None:
    into.append(at.integer(1, MAX_PORT))


def _both(key: str, field: str, add: Callable[[Field, Any], None]) -> dict[str, tuple[str, Any]]:
    """A group and its negation."""
    return {key: (field, add), f"not{key[0].upper()}{key[1:]}": (f"not_{field}", add)}


GROUPS: dict[str, tuple[str, Any]] = {
    **_both("namespaces", "namespaces", _string),
    **_both("serviceAccounts", "service_accounts", _account),
    **_both("principals", "principals", _string),
    **_both("sourceIps", "source_ips", _range),
    **_both("destinationIps", "destination_ips", _range),
    **_both("destinationPorts", "destination_ports", _port),
}
