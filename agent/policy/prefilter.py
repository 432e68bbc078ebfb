"""What can be judged of a connection by its addresses and port alone: which SYNs programs of the kernel may answer.

Pure. Of a plaintext connection that is everything, as it has no identity. Of one to the tunnel port it is the source
alone: who it is, and what it asks for, comes later; so only what denies whatever those are counts. All else is left to
`evaluate`, which judges those too. The source addresses that policies name cut the address space into cells, inside of
which all addresses look alike to all of them: one address of each is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

from agent.model.address import CIDR, IP
from agent.model.policy import Authorization, Clause, Match, Rule
from agent.policy.evaluate import NONE_ALLOWED, PolicySet, denied_by
from agent.policy.match import GROUPS, Subject
from agent.policy.missing import MissingPolicy

OTHER_PORTS = 0
"""In the place of a port: all of plaintext that no cell names."""
TUNNEL_PORT = 15008
JUDGEMENTS_MOST = 8192
"""For one set of policies: what they cost, they cost whenever one of them changes."""
EVERYWHERE: tuple[CIDR, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_UNSEEN_IN_TUNNELS = frozenset(
    ("destination_ips", "destination_ports", "namespaces", "principals", "service_accounts")
)
_NOTHING_UNSEEN: frozenset[str] = frozenset()


class Cell(NamedTuple):
    """A range of sources less the ranges of other cells in it. `reason`: why they are denied; empty: left alone."""

    port: int
    sources: CIDR
    reason: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What decides about a pod: the same for many of them. `address` where policies tell its addresses apart."""

    deny: tuple[Authorization, ...]
    allow: tuple[Authorization, ...]
    missing: tuple[MissingPolicy, ...]
    address: IP | None
    names: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = [policy.key for policy in (*self.deny, *self.allow)]
        object.__setattr__(self, "names", hash((tuple(names), self.missing, self.address)))

    def __hash__(self) -> int:
        """By their names: what is in them is much, and seldom another."""
        return self.names


def judged(policies: PolicySet, address: IP) -> Judged:
    """What decides about connections to this address."""
    matches = _matches((*policies.deny, *policies.allow))
    by_address = any(match.destination_ips or match.not_destination_ips for match in matches)
    return Judged(policies.deny, policies.allow, policies.missing, address if by_address else None)


def cells(by: Judged, most: int = JUDGEMENTS_MOST) -> tuple[Cell, ...] | None:
    """Who is denied for certain. Empty: nobody is, None: there is too much to judge.

    Of the cells of a port the one with the longest range that has the source counts; no cell: it is left alone. A port
    without cells has those of OTHER_PORTS, but for TUNNEL_PORT.
    """
    enforced = (*by.deny, *by.allow)
    if not enforced and not by.missing:
        return ()
    ranges = {each for match in _matches(enforced) for each in (*match.source_ips, *match.not_source_ips)}
    ports = {
        each
        for match in _matches(enforced)
        for each in (*match.destination_ports, *match.not_destination_ports)
    }
    named = sorted(ports - {OTHER_PORTS, TUNNEL_PORT})
    if (len(ranges) + 2) * (len(named) + 2) > most:
        return None
    nested = list(_nested(ranges.union(EVERYWHERE)))
    other = next(port for port in range(1, 65536) if port not in ports and port != TUNNEL_PORT)

    def column(port: int, unseen: frozenset[str]) -> list[tuple[CIDR, str]]:
        judge = (
            (each, _refusal(by, Subject(source, by.address or source, port, None, None, ""), unseen))
            for each, source in nested
        )
        return list(_differing(judge))

    # Each column begins with EVERYWHERE, both of it: to a program an address of IPv4 lies in ::/0 too.
    of_others = column(other, _NOTHING_UNSEEN)
    columns = {port: column(port, _NOTHING_UNSEEN) for port in named}
    columns = {port: rows for port, rows in columns.items() if rows != of_others}
    columns |= {OTHER_PORTS: of_others, TUNNEL_PORT: column(TUNNEL_PORT, _UNSEEN_IN_TUNNELS)}
    without = {port for port in (OTHER_PORTS, TUNNEL_PORT) if not any(reason for _, reason in columns[port])}
    found = tuple(Cell(port, *row) for port, rows in columns.items() if port not in without for row in rows)
    return found if any(cell.reason for cell in found) else ()


def _matches(policies: Iterable[Authorization]) -> Iterator[Match]:
    for policy in policies:
        for rule in policy.rules:
            for clause in rule.clauses:
                yield from clause.matches


# -- cells


def _nested(ranges: Iterable[CIDR]) -> Iterator[tuple[CIDR, IP]]:
    """Each range after those that it is in, with an address of it that is in no narrower one, if there is one."""
    order = sorted(ranges, key=lambda each: (each.version, int(each.network_address), each.prefixlen))
    for number, each in enumerate(order):
        address = _address_of_its_own(each, order[number + 1 :])
        if address is not None:
            yield each, address


def _address_of_its_own(outer: CIDR, following: Iterable[CIDR]) -> IP | None:
    first, last = int(outer.network_address), int(outer.broadcast_address)
    for inner in following:
        if inner.version != outer.version or int(inner.network_address) > first:
            break
        first = max(first, int(inner.broadcast_address) + 1)
    if first > last:
        return None
    return IPv4Address(first) if outer.version == 4 else IPv6Address(first)


def _differing(rows: Iterable[tuple[CIDR, str]]) -> Iterator[tuple[CIDR, str]]:
    """Those that differ from the range that they are in; what is in none differs."""
    around: list[tuple[CIDR, str]] = []
    for each, reason in rows:
        while around and not _is_in(each, around[-1][0]):
            around.pop()
        if not around or around[-1][1] != reason:
            yield each, reason
            around.append((each, reason))


def _is_in(inner: CIDR, outer: CIDR) -> bool:
    return (
        inner.version == outer.version
        and inner.network_address in outer
        and inner.prefixlen >= outer.prefixlen
    )


# -- judgement: the one of `evaluate`, where some of the facts are not known; None: it depends on them


def _refusal(by: Judged, subject: Subject, unseen: frozenset[str]) -> str:
    """Why a connection is denied, whatever is unseen of it; empty: it may not be."""
    for policy in by.deny:
        if any(_rule(rule, subject, unseen) for rule in policy.rules):
            return denied_by(policy.key)
    for missing in by.missing:
        if not missing.demands_identity_only or not unseen:
            return missing.reason
    if by.allow and all(
        _rule(rule, subject, unseen) is False for policy in by.allow for rule in policy.rules
    ):
        return NONE_ALLOWED
    return ""


def _rule(rule: Rule, subject: Subject, unseen: frozenset[str]) -> bool | None:
    answers = [_clause(clause, subject, unseen) for clause in rule.clauses]
    if False in answers:
        return False
    return None if None in answers else True


def _clause(clause: Clause, subject: Subject, unseen: frozenset[str]) -> bool | None:
    answers = [_match(match, subject, unseen) for match in clause.matches]
    if not answers or True in answers:
        return True
    return None if None in answers else False


def _match(match: Match, subject: Subject, unseen: frozenset[str]) -> bool | None:
    restricting = [group for group in GROUPS if group.restricts(match)]
    if not restricting:
        return False
    seen = [group for group in restricting if group.name not in unseen]
    if not all(group.holds(match, subject) for group in seen):
        return False
    return True if len(seen) == len(restricting) else None
