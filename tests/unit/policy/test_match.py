"""Every group of a match (docs/WIRE.md#policies), each positive and negative, for plaintext and mTLS, IPv4 and IPv6."""

from __future__ import annotations

import pytest

from agent.model.address import parse_cidr
from agent.model.connection import Connection
from agent.model.policy import Clause, Match, Rule, ServiceAccountMatch, StringMatch, StringMatchKind
from agent.policy.match import (
    clause_matches,
    match_matches,
    matching_rule,
    rule_matches,
    string_matches,
    subject_of,
)
from tests.support.mesh import PRESENT, connection, exact, identity

WEB = identity("web")
OTHER = identity("api", "shop", "other.domain")
V4 = ("10.0.0.9:40000", "10.0.0.1:8080")
V6 = ("[fd00::9]:40000", "[fd00::1]:8080")

PLAIN, MTLS, FOREIGN = connection(*V4), connection(*V4, who=WEB), connection(*V4, who=OTHER)
PLAIN6, MTLS6 = connection(*V6), connection(*V6, who=WEB)

EXACT, PREFIX, SUFFIX = StringMatchKind.EXACT, StringMatchKind.PREFIX, StringMatchKind.SUFFIX


def cidrs(*texts: str):
    return tuple(parse_cidr(t) for t in texts)


@pytest.mark.parametrize(
    ("kind", "value", "text", "expected"),
    [
        (EXACT, "abc", "abc", True),
        (EXACT, "abc", "abcd", False),
        (EXACT, "", "", True),
        (PREFIX, "ab", "abc", True),
        (PREFIX, "bc", "abc", False),
        (PREFIX, "", "", True),
        (SUFFIX, "bc", "abc", True),
        (SUFFIX, "ab", "abc", False),
        (SUFFIX, "abc", "abc", True),
        (StringMatchKind.PRESENCE, "", "x", True),
        (StringMatchKind.PRESENCE, "", "", False),
    ],
)
def test_string_match(kind: StringMatchKind, value: str, text: str, expected: bool) -> None:
    assert string_matches(StringMatch(kind, value), text) is expected


ACCOUNT = (ServiceAccountMatch("apps", "web"),)
PRINCIPAL = (exact("cluster.local/ns/apps/sa/web"),)

ROWS: list[tuple[str, Match, Connection, bool]] = [
    ("port equal", Match(destination_ports=(8080,)), PLAIN, True),
    ("port equal v6", Match(destination_ports=(8080,)), PLAIN6, True),
    ("one of several ports", Match(destination_ports=(80, 8080)), MTLS, True),
    ("port different", Match(destination_ports=(80,)), MTLS, False),
    ("source port is not looked at", Match(destination_ports=(40000,)), PLAIN, False),
    ("not port equal", Match(not_destination_ports=(8080,)), PLAIN, False),
    ("not port different", Match(not_destination_ports=(80,)), PLAIN, True),
    ("port and not port", Match(destination_ports=(8080,), not_destination_ports=(8080,)), PLAIN, False),
    ("source in range", Match(source_ips=cidrs("10.0.0.0/24")), PLAIN, True),
    ("source in range v6", Match(source_ips=cidrs("fd00::/64")), PLAIN6, True),
    ("source out of range", Match(source_ips=cidrs("10.0.1.0/24")), PLAIN, False),
    ("source out of range v6", Match(source_ips=cidrs("fd01::/64")), PLAIN6, False),
    ("source exact", Match(source_ips=cidrs("10.0.0.9")), PLAIN, True),
    ("source is not the destination", Match(source_ips=cidrs("10.0.0.1")), PLAIN, False),
    ("any v4 says nothing about v6", Match(source_ips=cidrs("0.0.0.0/0")), PLAIN6, False),
    ("any v6 says nothing about v4", Match(source_ips=cidrs("::/0")), PLAIN, False),
    ("mapped range is the v4 range", Match(source_ips=cidrs("::ffff:10.0.0.0/120")), PLAIN, True),
    ("not source in range", Match(not_source_ips=cidrs("10.0.0.0/8")), PLAIN, False),
    ("not source in range v6", Match(not_source_ips=cidrs("fd00::/16")), PLAIN6, False),
    ("not source out of range", Match(not_source_ips=cidrs("192.0.2.0/24")), PLAIN, True),
    (
        "hole in a range",
        Match(source_ips=cidrs("10.0.0.0/8"), not_source_ips=cidrs("10.0.0.9")),
        PLAIN,
        False,
    ),
    ("destination in range", Match(destination_ips=cidrs("10.0.0.1/32")), PLAIN, True),
    ("destination in range v6", Match(destination_ips=cidrs("fd00::1")), MTLS6, True),
    ("destination out of range", Match(destination_ips=cidrs("10.0.0.9/32")), PLAIN, False),
    ("destination out of range v6", Match(destination_ips=cidrs("fd00::9")), PLAIN6, False),
    ("not destination in range", Match(not_destination_ips=cidrs("10.0.0.0/24")), PLAIN, False),
    ("not destination out of range", Match(not_destination_ips=cidrs("fd00::1")), PLAIN, True),
    ("account equal", Match(service_accounts=ACCOUNT), MTLS, True),
    ("account equal v6", Match(service_accounts=ACCOUNT), MTLS6, True),
    (
        "account ignores the trust domain",
        Match(service_accounts=(ServiceAccountMatch("shop", "api"),)),
        FOREIGN,
        True,
    ),
    (
        "account of another namespace",
        Match(service_accounts=(ServiceAccountMatch("shop", "web"),)),
        MTLS,
        False,
    ),
    ("other account", Match(service_accounts=(ServiceAccountMatch("apps", "api"),)), MTLS, False),
    ("account, plaintext", Match(service_accounts=ACCOUNT), PLAIN, False),
    ("not account equal", Match(not_service_accounts=ACCOUNT), MTLS, False),
    ("not account other", Match(not_service_accounts=ACCOUNT), FOREIGN, True),
    ("not account, plaintext", Match(not_service_accounts=ACCOUNT), PLAIN, True),
    ("principal equal", Match(principals=PRINCIPAL), MTLS, True),
    ("principal equal v6", Match(principals=PRINCIPAL), MTLS6, True),
    (
        "principal with scheme never",
        Match(principals=(exact("spiffe://cluster.local/ns/apps/sa/web"),)),
        MTLS,
        False,
    ),
    ("principal other", Match(principals=PRINCIPAL), FOREIGN, False),
    ("principal by prefix", Match(principals=(StringMatch(PREFIX, "other.domain/"),)), FOREIGN, True),
    ("principal by suffix", Match(principals=(StringMatch(SUFFIX, "/sa/web"),)), MTLS, True),
    ("principal present", Match(principals=(PRESENT,)), MTLS, True),
    ("principal present, plaintext", Match(principals=(PRESENT,)), PLAIN, False),
    ("not principal equal", Match(not_principals=PRINCIPAL), MTLS, False),
    ("not principal other", Match(not_principals=PRINCIPAL), FOREIGN, True),
    ("not principal, plaintext", Match(not_principals=PRINCIPAL), PLAIN, True),
    ("not present, mTLS (strict)", Match(not_principals=(PRESENT,)), MTLS, False),
    ("not present, plaintext (strict)", Match(not_principals=(PRESENT,)), PLAIN, True),
    ("not present, plaintext v6 (strict)", Match(not_principals=(PRESENT,)), PLAIN6, True),
    ("namespace equal", Match(namespaces=(exact("apps"),)), MTLS, True),
    ("namespace equal v6", Match(namespaces=(exact("apps"),)), MTLS6, True),
    ("namespace other", Match(namespaces=(exact("apps"),)), FOREIGN, False),
    ("namespace, plaintext", Match(namespaces=(exact("apps"),)), PLAIN, False),
    ("namespace present, plaintext", Match(namespaces=(PRESENT,)), PLAIN, False),
    ("namespace by prefix", Match(namespaces=(StringMatch(PREFIX, "ap"),)), MTLS, True),
    ("not namespace equal", Match(not_namespaces=(exact("apps"),)), MTLS, False),
    ("not namespace other", Match(not_namespaces=(exact("apps"),)), FOREIGN, True),
    ("not namespace, plaintext", Match(not_namespaces=(exact("apps"),)), PLAIN, True),
    ("groups are AND, all hold", Match(destination_ports=(8080,), principals=PRINCIPAL), MTLS, True),
    ("groups are AND, one fails", Match(destination_ports=(80,), principals=PRINCIPAL), MTLS, False),
    ("groups are AND, the other fails", Match(destination_ports=(8080,), principals=PRINCIPAL), PLAIN, False),
    ("empty match", Match(), MTLS, False),
    ("empty match, plaintext v6", Match(), PLAIN6, False),
]


@pytest.mark.parametrize(
    ("match", "conn", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_match(match: Match, conn: Connection, expected: bool) -> None:
    assert match_matches(match, subject_of(conn)) is expected


YES, NO = Match(destination_ports=(8080,)), Match(destination_ports=(1,))
TRUE, FALSE = Clause((YES,)), Clause((NO,))


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        (Clause(), True),
        (Clause((YES,)), True),
        (Clause((NO,)), False),
        (Clause((NO, YES)), True),
        (Clause((Match(),)), False),
        (Clause((Match(), YES)), True),
    ],
)
def test_clause_is_any_of_its_matches(clause: Clause, expected: bool) -> None:
    assert clause_matches(clause, subject_of(PLAIN)) is expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(), True),
        (Rule((TRUE,)), True),
        (Rule((TRUE, TRUE)), True),
        (Rule((TRUE, FALSE)), False),
        (Rule((FALSE, TRUE)), False),
        (Rule((Clause(), FALSE)), False),
        (Rule((Clause(), TRUE)), True),
    ],
)
def test_rule_is_all_of_its_clauses(rule: Rule, expected: bool) -> None:
    assert rule_matches(rule, subject_of(PLAIN)) is expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), None),
        ((Rule(),), 0),
        ((Rule((FALSE,)),), None),
        ((Rule((FALSE,)), Rule((TRUE,))), 1),
        ((Rule((TRUE,)), Rule((TRUE,))), 0),
    ],
)
def test_policy_is_any_of_its_rules_and_never_without_rules(
    rules: tuple[Rule, ...], expected: int | None
) -> None:
    assert matching_rule(rules, subject_of(PLAIN)) == expected
