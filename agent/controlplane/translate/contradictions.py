"""Sources, operations and conditions of a policy that take back all they say, as by `ipBlocks` and `notIpBlocks`.

Every field of one must hold, so nothing ever matches it: who meant "either" has denied, or allowed, nobody. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import NamedTuple, TypeVar

from agent.controlplane.read.meta import IPRange
from agent.controlplane.read.objects import AuthorizationPolicy, Rule, Terms

T = TypeVar("T")


class Contradiction(NamedTuple):
    """`field`: the entry that matches nothing. `excluded`: what it lists, as it is in its own exceptions.

    `is_whole`: its rule matches nothing either, as there is no other entry beside it that could.
    """

    field: str
    excluded: str
    is_whole: bool


def contradictions(policy: AuthorizationPolicy) -> Iterator[Contradiction]:
    """Of all rules. Where only some of what an entry lists is excluded it means the others, and is none."""
    for number, rule in enumerate(policy.rules):
        for places, alternatives in _clauses(rule):
            found = [(place, _excluded(terms)) for place, terms in zip(places, alternatives, strict=True)]
            is_whole = all(excluded for _, excluded in found)
            for place, excluded in found:
                if excluded:
                    yield Contradiction(f"spec.rules[{number}].{place}", excluded, is_whole)


def _clauses(rule: Rule) -> Iterator[tuple[Sequence[str], Sequence[Terms]]]:
    """The entries of which one must match, with their places; each condition stands alone."""
    yield [f"to[{index}].operation" for index in range(len(rule.to))], rule.to
    yield [f"from[{index}].source" for index in range(len(rule.sources))], rule.sources
    yield from (([f"when[{index}]"], (terms,)) for index, terms in enumerate(rule.when))


def _excluded(terms: Terms) -> str:
    """The values of a field that are all in its exceptions; empty where there is no such field."""
    for name, texts in _listed(terms.strings):
        if all(any(_has(other, text) for other in terms.strings[f"not_{name}"]) for text in texts):
            return ", ".join(texts)
    for name, ranges in _listed(terms.ranges):
        if all(any(_contains(other, each) for other in terms.ranges[f"not_{name}"]) for each in ranges):
            return ", ".join(f"{ip}/{length}" for ip, length in ranges)
    for name, ports in _listed(terms.ports):
        if set(ports) <= set(terms.ports[f"not_{name}"]):
            return ", ".join(map(str, ports))
    for name, accounts in _listed(terms.accounts):
        if set(accounts) <= set(terms.accounts[f"not_{name}"]):
            return ", ".join(map("/".join, accounts))
    return ""


def _listed(fields: Mapping[str, Sequence[T]]) -> Iterator[tuple[str, Sequence[T]]]:
    """The fields that have exceptions."""
    yield from ((name, values) for name, values in fields.items() if fields.get(f"not_{name}"))


def _has(pattern: str, other: str) -> bool:
    """Whether all that a pattern may find (`x`, `x*`, `*x` or `*`) is found by this one, as far as their texts say."""
    if pattern in ("*", other):
        return True
    if pattern.endswith("*"):
        return other.removesuffix("*").startswith(pattern[:-1])
    return pattern.startswith("*") and other.removeprefix("*").endswith(pattern[1:])


def _contains(outer: IPRange, inner: IPRange) -> bool:
    (outer_ip, outer_length), (inner_ip, inner_length) = outer, inner
    if outer_ip.version != inner_ip.version or outer_length > inner_length:
        return False
    return inner_ip in ip_network((outer_ip, outer_length), strict=False)
