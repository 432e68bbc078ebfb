"""An authorization policy as the node proxy enforces it: `istio.security.Authorization`.

Structure (docs/WIRE.md#policies): rules are OR; clauses in a rule are AND; matches in a clause are OR;
groups in a match are AND. Empty levels mean: no rules = never, a rule without clauses = always,
a clause without matches = true, an empty match = never.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.model.address import CIDR


class Scope(Enum):
    GLOBAL = "Global"
    NAMESPACE = "Namespace"
    WORKLOAD_SELECTOR = "WorkloadSelector"


class Action(Enum):
    ALLOW = "Allow"
    DENY = "Deny"


class StringMatchKind(Enum):
    EXACT = "Exact"
    PREFIX = "Prefix"
    SUFFIX = "Suffix"
    PRESENCE = "Presence"


@dataclass(frozen=True, slots=True)
class StringMatch:
    kind: StringMatchKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class ServiceAccountMatch:
    namespace: str
    service_account: str


@dataclass(frozen=True, slots=True)
class Match:
    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[CIDR, ...] = ()
    not_source_ips: tuple[CIDR, ...] = ()
    destination_ips: tuple[CIDR, ...] = ()
    not_destination_ips: tuple[CIDR, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Clause:
    matches: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    clauses: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True)
class Authorization:
    name: str
    namespace: str
    scope: Scope
    action: Action
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False

    @property
    def key(self) -> str:
        """How logs, dumps and people name it: `namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class RefusedPolicy:
    """A policy that cannot be used, and what is still known of whom it is about.

    `scope` is GLOBAL where it cannot be read; `namespace` matters where the scope is one.
    """

    reason: str
    scope: Scope
    namespace: str = ""
    dry_run: bool = False
