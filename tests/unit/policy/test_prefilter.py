"""What of policies programs may deny by: all of plaintext; of tunnels what denies whoever asks, whatever for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.address import parse_cidr, parse_ip
from agent.model.policy import Action, Authorization, Clause, Match, Rule, Scope
from agent.policy.evaluate import NONE_ALLOWED, PolicySet, evaluate
from agent.policy.missing import MissingPolicy
from agent.policy.prefilter import OTHER_PORTS, TUNNEL_PORT, Cell, cells, judged
from tests.fuzz.test_policy import POLICIES, REFUSED, RULES, TARGETS
from tests.support.denials import reason_of
from tests.support.mesh import PRESENT as ANYONE
from tests.support.mesh import allow, connection, deny, exact, identity, refusing, snapshot

POD = parse_ip("10.0.0.1")
NEAR, FAR = parse_cidr("10.1.0.0/16"), parse_cidr("192.0.2.0/24")
NO_MTLS = Match(not_principals=(ANYONE,))


def found(*policies: Authorization, missing: tuple[MissingPolicy, ...] = ()) -> tuple[Cell, ...]:
    made = cells(judged(PolicySet.of(policies, missing), POD))
    assert made is not None
    return made


def denied(made: tuple[Cell, ...], *ends: str) -> list[bool]:
    """Of sources and ports as `address:port`."""
    split = [end.rpartition(":") for end in ends]
    return [bool(reason_of(made, parse_ip(ip.strip("[]")), int(port))) for ip, _, port in split]


@pytest.mark.parametrize(
    "policies",
    [
        pytest.param([], id="none"),
        pytest.param([deny("d")], id="no rules"),
        pytest.param([deny("d", Match(principals=(ANYONE,)))], id="an identity"),
        pytest.param([deny("d", Match(source_ips=(NEAR,)), dry_run=True)], id="dry run"),
        pytest.param(
            [allow("a", Match(not_namespaces=(exact("x"),)))],
            id="allows plaintext",
        ),
    ],
)
def test_where_nobody_is_denied_for_certain_there_is_nothing(policies: list[Authorization]) -> None:
    assert found(*policies) == ()


def test_a_range_is_denied_at_every_port_and_at_the_tunnel() -> None:
    made = found(deny("d", Match(source_ips=(NEAR,), not_source_ips=(parse_cidr("10.1.2.0/24"),))))
    assert denied(made, "10.1.0.1:80", "10.1.0.1:9", "10.1.0.1:15008") == [True] * 3
    assert denied(made, "10.1.2.1:80", "10.2.0.1:80", "10.1.2.1:15008", "[fd00::1]:80") == [False] * 4
    assert {cell.reason for cell in made} == {"", "explicitly denied by: apps/d"}


def test_a_port_says_nothing_of_the_tunnel() -> None:
    made = found(deny("d", Match(source_ips=(NEAR,), destination_ports=(80,))))
    assert denied(made, "10.1.0.1:80", "10.1.0.1:81", "10.1.0.1:15008", "10.9.0.1:80") == [
        True,
        False,
        False,
        False,
    ]


def test_all_ports_but_one_are_few_cells() -> None:
    made = found(deny("d", Match(not_destination_ports=(80,))))
    assert denied(made, "10.1.0.1:80", "[fd00::1]:80", "10.1.0.1:1", "[fd00::1]:9", "10.1.0.1:15008") == [
        *(False, False),
        *(True, True),
        False,
    ]
    assert len(made) == 4


def test_plaintext_is_denied_where_an_identity_is_demanded() -> None:
    """STRICT as istiod sends it, and as it only names it."""
    named = MissingPolicy("istio-system/istio_converted_static_strict")
    for made in (found(deny("d", NO_MTLS)), found(missing=(named,))):
        assert denied(made, "10.1.0.1:80", "[fd00::1]:80", "10.1.0.1:15008") == [True, True, False]
    assert denied(found(missing=(MissingPolicy("apps/late"),)), "10.1.0.1:80", "10.1.0.1:15008") == [
        True,
        True,
    ]


def test_who_is_in_no_range_that_is_allowed_is_denied_whoever_it_is() -> None:
    made = found(
        allow("a", Match(source_ips=(NEAR,), principals=(ANYONE,))), allow("b", Match(source_ips=(FAR,)))
    )
    assert denied(made, "10.1.0.1:80", "192.0.2.1:80", "10.2.0.1:80", "[fd00::1]:80") == [
        True,
        False,
        True,
        True,
    ]
    assert denied(made, "10.1.0.1:15008", "192.0.2.1:15008", "10.2.0.1:15008") == [False, False, True]
    assert {cell.reason for cell in made} == {"", NONE_ALLOWED}


def test_addresses_of_a_pod_are_told_apart_only_where_policies_do() -> None:
    other = parse_ip("10.0.0.2")
    same = PolicySet.of([deny("d", Match(source_ips=(NEAR,)))])
    assert judged(same, POD) == judged(same, other) and hash(judged(same, POD)) == hash(judged(same, other))
    apart = PolicySet.of([deny("d", Match(destination_ips=(parse_cidr("10.0.0.1"),)))])
    assert judged(apart, POD) != judged(apart, other)
    assert bool(cells(judged(apart, POD))) and not cells(judged(apart, other))
    # A tunnel may be for another address: the pod may be a waypoint.
    assert denied(cells(judged(apart, POD)) or (), "10.9.9.9:80", "10.9.9.9:15008") == [True, False]


def test_what_would_take_long_to_judge_is_left() -> None:
    ranges = tuple(parse_cidr(f"10.{n}.0.0/16") for n in range(100))
    ports = tuple(range(1, 100))
    of = judged(PolicySet.of([deny("d", Match(source_ips=ranges, destination_ports=ports))]), POD)
    assert cells(of) is None
    assert cells(of, most=20_000)


@settings(max_examples=400)
@given(
    st.lists(POLICIES, max_size=4),
    st.lists(RULES, max_size=1),
    TARGETS,
    REFUSED,
    st.sampled_from(["10.0.0.9", "10.0.0.1", "192.0.2.1", "fd00::9", "fd01::9"]),
    st.sampled_from([80, 8080, 443, 15008]),
    st.none() | st.builds(identity, st.sampled_from(["web", "api"]), st.sampled_from(["apps", "shop", ""])),
    st.sampled_from(["10.0.0.1:80", "10.0.0.1:8080", "[fd00::1]:443", "192.0.2.7:15008"]),
)
def test_what_a_program_denies_a_worker_denies(
    policies, rules, target, refused, source, port, who, asked
) -> None:
    """And of plaintext it denies all of that, for the same reason."""
    alike = [Authorization("p3", "apps", Scope.GLOBAL, Action.ALLOW, (rule,)) for rule in rules]
    snap = refusing(snapshot(*policies, *alike), **refused)
    made = cells(judged(snap.policies_for(target), POD))
    assert made is not None
    reason = reason_of(made, parse_ip(source), port)
    written = f"[{source}]:1" if ":" in source else f"{source}:1"
    if port != TUNNEL_PORT:
        decision = evaluate(connection(written, f"{POD}:{port}", None), target, snap)
        assert reason == decision.reason
    elif reason:
        assert not evaluate(connection(written, asked, who), target, snap).allowed


def test_a_clause_and_its_like_are_read_as_evaluate_does() -> None:
    rule = Rule((Clause((Match(source_ips=(NEAR,)), Match(principals=(ANYONE,)))), Clause()))
    only = Authorization("d", "apps", Scope.GLOBAL, Action.DENY, (rule,))
    assert denied(found(only), "10.1.0.1:80", "10.1.0.1:15008", "10.2.0.1:15008") == [True, True, False]
    assert all(cell.port in (OTHER_PORTS, TUNNEL_PORT) for cell in found(only))
