"""Does one rule of an authorization policy match one connection? The semantics of docs/WIRE.md#policies.

Pure predicates over `Subject`, the facts of a connection in the form policies compare. `evaluate` walks
them for a verdict, `explain` walks the same predicates and writes down every answer; neither has a copy
of the semantics. Which policies apply to a destination is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from agent.model.address import CIDR, IP
from agent.model.connection import Connection
from agent.model.identity import Identity
from agent.model.policy import (
    Clause,
    Match,
    Rule,
    ServiceAccountMatch,
    StringMatch,
    StringMatchKind,
)


class Subject(NamedTuple):
    """A connection as policies see it. `principal` is the identity without `spiffe://`."""

    source_ip: IP
    destination_ip: IP
    destination_port: int
    identity: Identity | None
    principal: str | None
    namespace: str
    """The peer's namespace; empty for plaintext."""


def subject_of(connection: Connection) -> Subject:
    identity = connection.identity
    return Subject(
        source_ip=connection.source.ip,
        destination_ip=connection.destination.ip,
        destination_port=connection.destination.port,
        identity=identity,
        principal=None if identity is None else identity.principal,
        namespace="" if identity is None else identity.namespace,
    )


def string_matches(match: StringMatch, text: str) -> bool:
    """Exact, prefix, suffix, or presence (any text but the empty one)."""
    kind = match.kind
    if kind is StringMatchKind.EXACT:
        return text == match.value
    if kind is StringMatchKind.PREFIX:
        return text.startswith(match.value)
    if kind is StringMatchKind.SUFFIX:
        return text.endswith(match.value)
    return text != ""


def _any_string(matches: tuple[StringMatch, ...], text: str | None) -> bool:
    if text is not None:
        for match in matches:
            if string_matches(match, text):
                return True
    return False


def _any_range(ranges: tuple[CIDR, ...], ip: IP) -> bool:
    # A range of the other family never contains an address, so `::/0` says nothing about IPv4.
    for cidr in ranges:  # noqa: SIM110 (twice as fast as any(); this is the data path)
        if ip in cidr:
            return True
    return False


def _any_account(matches: tuple[ServiceAccountMatch, ...], identity: Identity | None) -> bool:
    """Namespace and account equal; the trust domain is not compared. No identity: no match."""
    if identity is not None:
        for match in matches:
            if match.service_account == identity.service_account and match.namespace == identity.namespace:
                return True
    return False


def _is_listed(ports: tuple[int, ...], port: int) -> bool:
    return port in ports


class Group(NamedTuple):
    """One pair of lists of a Match, `name` and `not_name`, and the fact they are compared with."""

    name: str
    lists: Callable[[Match], tuple[Any, Any]]
    fact: Callable[[Subject], Any]
    contains: Callable[[Any, Any], bool]

    def restricts(self, match: Match) -> bool:
        return any(self.lists(match))

    def holds(self, match: Match, subject: Subject) -> bool:
        """No positive list or one of it matches, and none of the negative list does."""
        positive, negative = self.lists(match)
        fact = self.fact(subject)
        return (not positive or self.contains(positive, fact)) and not (
            negative and self.contains(negative, fact)
        )


def _group(name: str, fact: str, contains: Callable[[Any, Any], bool]) -> Group:
    return Group(name, attrgetter(name, f"not_{name}"), attrgetter(fact), contains)


GROUPS = (
    _group("destination_ports", "destination_port", _is_listed),
    _group("namespaces", "namespace", _any_string),
    _group("service_accounts", "identity", _any_account),
    _group("principals", "principal", _any_string),
    _group("source_ips", "source_ip", _any_range),
    _group("destination_ips", "destination_ip", _any_range),
)
"""The groups of a Match, cheapest first: all must hold, so the order changes no verdict."""


def match_matches(match: Match, subject: Subject) -> bool:
    """All groups hold. A Match that restricts nothing never matches."""
    restricts = False
    for group in GROUPS:
        positive, negative = group.lists(match)
        if positive or negative:
            restricts = True
            if not group.holds(match, subject):
                return False
    return restricts


def clause_matches(clause: Clause, subject: Subject) -> bool:
    """Any match; a clause without matches is true."""
    for match in clause.matches:
        if match_matches(match, subject):
            return True
    return not clause.matches


def rule_matches(rule: Rule, subject: Subject) -> bool:
    """Every clause; a rule without clauses matches everything."""
    for clause in rule.clauses:  # noqa: SIM110
        if not clause_matches(clause, subject):
            return False
    return True


def matching_rule(rules: tuple[Rule, ...], subject: Subject) -> int | None:
    """Index of the first rule that matches, None if none does: a policy without rules never matches."""
    for index, rule in enumerate(rules):
        if rule_matches(rule, subject):
            return index
    return None
