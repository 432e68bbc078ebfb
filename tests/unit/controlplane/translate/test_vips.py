"""Allocated addresses: the same for the same Service, never one that is taken, per family as it asks."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import Service
from agent.controlplane.translate.vips import allocate
from agent.model.address import parse_cidr

V4, V6 = parse_cidr("10.96.0.0/16"), parse_cidr("fd77:96::/112")


def service(name: str, spec: str = "") -> Service:
    text = f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
    [made] = parse("f.yaml", text).objects
    return made


def given(services: list[Service], ranges=(V4, V6), remembered=None, taken=()) -> dict[str, tuple[str, ...]]:
    allocation = allocate(services, ranges, remembered or {}, taken)
    assert not allocation.errors
    return {s.meta.name: tuple(map(str, s.cluster_ips or ())) for s in allocation.services}


def test_the_same_service_gets_the_same_address_whoever_else_is_there() -> None:
    alone = given([service("web")])
    crowd = given([service(f"s{n}") for n in range(300)] + [service("web")])
    assert alone["web"] == crowd["web"] == given([service("web")])["web"]
    assert len(set(crowd.values())) == 301
    assert all(ip_address(ip) in V4 for ips in crowd.values() for ip in ips)


def test_a_remembered_address_is_kept_against_newcomers() -> None:
    [hashed] = given([service("newcomer")])["newcomer"]
    result = given([service("newcomer"), service("older")], remembered={"default/older": (hashed,)})
    assert result["older"] == (hashed,) and result["newcomer"] != (hashed,)


def test_an_address_in_a_manifest_wins_over_an_allocated_one() -> None:
    [hashed] = given([service("web")])["web"]
    result = given(
        [service("web"), service("fixed", f"clusterIP: {hashed}")], remembered={"default/web": (hashed,)}
    )
    assert result["fixed"] == (hashed,) and result["web"] != (hashed,)
    assert given([service("web")], taken=[ip_address(hashed)])["web"] != (hashed,)


@pytest.mark.parametrize(
    ("spec", "versions"),
    [
        ("", [4]),
        ("ipFamilyPolicy: SingleStack", [4]),
        ("ipFamilyPolicy: PreferDualStack", [4, 6]),
        ("ipFamilyPolicy: RequireDualStack", [4, 6]),
        ("ipFamilies: [IPv6]", [6]),
        ("ipFamilies: [IPv6, IPv4]", [6, 4]),
    ],
)
def test_families(spec: str, versions: list[int]) -> None:
    ips = given([service("web", spec)])["web"]
    assert [ip_address(ip).version for ip in ips] == versions


def test_prefer_dual_stack_takes_what_there_is() -> None:
    assert len(given([service("web", "ipFamilyPolicy: PreferDualStack")], ranges=(V4,))["web"]) == 1


@pytest.mark.parametrize(
    ("spec", "ranges", "said"),
    [
        ("ipFamilies: [IPv6]", (V4,), "no range for the IPv6 family"),
        ("ipFamilyPolicy: RequireDualStack", (V4,), "no range for the second family"),
        ("", (), "no range for the any family"),
        ("", (parse_cidr("10.0.0.0/32"),), "no free address in 10.0.0.0/32"),
    ],
)
def test_what_cannot_be_allocated_names_the_service(spec: str, ranges: tuple, said: str) -> None:
    allocation = allocate([service("web", spec), service("fine", "clusterIP: 10.9.9.9")], ranges, {}, ())
    assert [s.meta.name for s in allocation.services] == ["fine"]
    assert said in str(allocation.errors[0]) and "Service default/web" in str(allocation.errors[0])


def test_a_full_range_is_used_to_the_last_address() -> None:
    small = parse_cidr("10.0.0.0/29")
    assert len(set(given([service(f"s{n}") for n in range(6)], ranges=(small,)).values())) == 6
    allocation = allocate([service(f"s{n}") for n in range(7)], (small,), {}, ())
    assert len(allocation.errors) == 1 and len(allocation.services) == 6
