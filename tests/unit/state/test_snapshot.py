"""Lookups: which workload, service and endpoints a name or an address means (docs/WIRE.md#mesh-state)."""

from __future__ import annotations

import dataclasses

import pytest

from agent.model.address import IP, parse_cidr, parse_ip
from agent.model.service import CidrVip, HealthPolicy, LoadBalancing, Service, Visibility
from agent.model.workload import Health, TunnelProtocol, Workload
from agent.policy.missing import MissingPolicy
from agent.state.apply import apply
from agent.state.snapshot import Snapshot
from tests.support.mesh import batch, deny, host, key, service, snapshot, workload

IP1 = parse_ip("10.0.0.1")
PLAIN = TunnelProtocol.NONE
PRIVATE = Visibility.NAMESPACE


def block(cidr: str, network: str = "") -> CidrVip:
    return CidrVip(network, parse_cidr(cidr))


def uids(snap: Snapshot, service_key) -> set[str]:
    return {e.workload.name for e in snap.endpoints(service_key).all}


# --- workloads


def test_workload_is_found_by_network_and_address() -> None:
    here, there = workload("a", "10.0.0.1", "fd00::1"), workload("b", "10.0.0.1", network="n2")
    snap = snapshot(here, there)
    assert snap.workload_at("", IP1) == here
    assert snap.workload_at("", parse_ip("fd00::1")) == here
    assert snap.workload_at("n2", IP1) == there
    assert snap.workload_at("n3", IP1) is None


def test_workload_on_the_host_network_is_not_found_by_address() -> None:
    snap = snapshot(workload("a", "10.0.0.1", host_network=True, services={"web": {80: 80}}), service("web"))
    assert snap.workload_at("", IP1) is None
    assert uids(snap, key("web")) == {"a"}


POD_HBONE, POD = workload("ph", "10.0.0.1"), workload("pp", "10.0.0.1", protocol=PLAIN)
ENTRY_HBONE = workload("eh", "10.0.0.1", kind="WorkloadEntry")
ENTRY = workload("ep", "10.0.0.1", kind="WorkloadEntry", protocol=PLAIN)
LATER = workload("zz", "10.0.0.1")


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        ((POD_HBONE, POD, ENTRY_HBONE, ENTRY), "ph"),
        ((ENTRY, ENTRY_HBONE, POD, POD_HBONE), "ph"),
        ((POD, ENTRY_HBONE), "pp"),
        ((ENTRY_HBONE, POD, ENTRY), "pp"),
        ((ENTRY_HBONE, ENTRY), "eh"),
        ((POD_HBONE, LATER), "zz"),
        ((LATER, POD_HBONE), "ph"),
    ],
    ids=lambda v: v if isinstance(v, str) else "+".join(w.name for w in v),
)
def test_best_of_workloads_that_share_an_address(sharing: tuple[Workload, ...], expected: str) -> None:
    found = snapshot(*sharing).workload_at("", IP1)
    assert found is not None
    assert found.name == expected


def test_address_falls_to_the_next_when_the_best_goes() -> None:
    snap = snapshot(POD, POD_HBONE)
    snap, _ = apply(snap, batch(removed=(POD_HBONE.uid,)))
    assert snap.workload_at("", IP1) == POD
    snap, _ = apply(snap, batch(removed=(POD.uid,)))
    assert snap.workload_at("", IP1) is None


def test_address_that_a_workload_gave_up_is_not_found() -> None:
    snap, _ = apply(snapshot(workload("a", "10.0.0.1", "10.0.0.2")), batch(workload("a", "10.0.0.2")))
    assert snap.workload_at("", IP1) is None
    assert snap.workload_at("", parse_ip("10.0.0.2")) is not None


@pytest.mark.parametrize(
    ("node", "account", "found"),
    [("n1", "default", True), ("", "default", True), ("n2", "default", False), ("n1", "other", False)],
)
def test_pod_of_this_node_is_found_by_its_names(node: str, account: str, found: bool) -> None:
    snap = snapshot(workload("a", "10.0.0.1"), node=node)
    assert (snap.local_workload("apps", "a", account) is not None) is found
    assert snap.local_workload("shop", "a", account) is None


def test_workload_is_found_by_hostname_in_its_namespace() -> None:
    vm = workload("vm", hostname="vm.example.test")
    snap = snapshot(vm, workload("none"))
    assert snap.workload_by_hostname("apps", "vm.example.test") == vm
    assert snap.workload_by_hostname("shop", "vm.example.test") is None
    assert snap.workload_by_hostname("apps", "") is None


# --- services


def own(name: str, **fields) -> Service:
    return service(name, "10.9.0.1", hostname="web.example.test", **fields)


@pytest.mark.parametrize(
    ("services", "client", "expected"),
    [
        pytest.param([own("a", namespace="x"), own("b", namespace="y")], "z", "a", id="first seen"),
        pytest.param([own("a", namespace="x"), own("b", namespace="y")], "y", "b", id="client's namespace"),
        pytest.param(
            [own("a", namespace="x"), own("b", namespace="y", canonical=True)], "z", "b", id="canonical"
        ),
        pytest.param(
            [own("a", namespace="x"), own("b", namespace="y", canonical=True)],
            "x",
            "a",
            id="client's namespace before canonical",
        ),
        pytest.param(
            [own("a", namespace="x", canonical=True), own("b", namespace="y", canonical=True)],
            "z",
            "b",
            id="last canonical",
        ),
        pytest.param(
            [own("a", namespace="x", visibility=PRIVATE), own("b", namespace="y")], "z", "b", id="invisible"
        ),
        pytest.param([own("a", namespace="x", visibility=PRIVATE)], "z", None, id="only an invisible one"),
        pytest.param([own("a", namespace="x", visibility=PRIVATE)], "x", "a", id="visible at home"),
        pytest.param([own("a", namespace="x", visibility=PRIVATE)], None, "a", id="no client sees all"),
        pytest.param(
            [own("a", namespace="x", canonical=True, visibility=PRIVATE), own("b", namespace="y")],
            "z",
            "b",
            id="invisible canonical",
        ),
    ],
)
def test_best_service_of_a_vip_and_of_a_hostname(
    services: list[Service], client: str | None, expected: str | None
) -> None:
    snap = snapshot(*services)
    by_vip = snap.service_at("", parse_ip("10.9.0.1"), client)
    by_host = snap.service_by_hostname("web.example.test", client)
    assert (by_vip.name if by_vip else None, by_host.name if by_host else None) == (expected, expected)


RANGE = service("range", cidr_vips=(block("10.9.0.0/16"),))
NARROW = service("narrow", cidr_vips=(block("10.9.1.0/24"),))
V6RANGE = service("v6", cidr_vips=(block("fd09::/64"),))
DUAL = service("dual", cidr_vips=(block("10.8.0.0/16"), block("fd08::/64")))


@pytest.mark.parametrize(
    ("services", "ip", "client", "expected"),
    [
        pytest.param([RANGE], "10.9.3.4", "apps", "range", id="in the range"),
        pytest.param([RANGE], "10.10.0.1", "apps", None, id="out of the range"),
        pytest.param([RANGE], "fd09::1", "apps", None, id="other family"),
        pytest.param([V6RANGE], "fd09::1", "apps", "v6", id="v6"),
        pytest.param([DUAL], "10.8.0.1", "apps", "dual", id="dual stack v4"),
        pytest.param([DUAL], "fd08::1", "apps", "dual", id="dual stack v6"),
        pytest.param([RANGE, NARROW], "10.9.1.1", "apps", "narrow", id="longest prefix"),
        pytest.param([NARROW, RANGE], "10.9.2.1", "apps", "range", id="only the wide one"),
        pytest.param(
            [NARROW, dataclasses.replace(RANGE, namespace="shop")],
            "10.9.1.1",
            "shop",
            "range",
            id="namespace beats prefix",
        ),
        pytest.param(
            [RANGE, dataclasses.replace(RANGE, name="c", namespace="shop", canonical=True)],
            "10.9.1.1",
            "z",
            "c",
            id="canonical at equal length",
        ),
        pytest.param(
            [RANGE, dataclasses.replace(RANGE, name="c", namespace="shop")],
            "10.9.1.1",
            "z",
            "range",
            id="first seen at equal rank",
        ),
        pytest.param(
            [RANGE, dataclasses.replace(NARROW, visibility=PRIVATE)],
            "10.9.1.1",
            "shop",
            "range",
            id="invisible narrow one",
        ),
        pytest.param([RANGE, service("exact", "10.9.1.1")], "10.9.1.1", "apps", "exact", id="exact first"),
        pytest.param(
            [RANGE, service("exact", "10.9.1.1", visibility=PRIVATE)],
            "10.9.1.1",
            "shop",
            "range",
            id="range where the exact one is invisible",
        ),
    ],
)
def test_best_service_of_a_range(services: list[Service], ip: str, client: str, expected: str | None) -> None:
    found = snapshot(*services).service_at("", parse_ip(ip), client)
    assert (found.name if found else None) == expected


def test_vips_and_ranges_belong_to_their_network() -> None:
    snap = snapshot(service("a", "n2/10.9.0.1"), service("b", cidr_vips=(block("10.8.0.0/16", "n2"),)))
    for ip in map(parse_ip, ("10.9.0.1", "10.8.0.1")):
        assert snap.service_at("", ip, "apps") is None
        assert snap.service_at("n2", ip, "apps") is not None


@pytest.mark.parametrize("ip", ["10.9.0.1", "10.8.3.4"])
def test_removed_or_moved_service_leaves_no_address_behind(ip: str) -> None:
    address: IP = parse_ip(ip)
    old = service("a", "10.9.0.1", cidr_vips=(block("10.8.0.0/16"),))
    before = snapshot(old)
    assert before.service_at("", address, "apps") == old
    removed, _ = apply(before, batch(removed=(str(old.key),)))
    moved, _ = apply(before, batch(service("a", "10.9.0.2")))
    for snap in (removed, moved):
        assert snap.service_at("", address, "apps") is None
    assert removed.service_by_hostname(host("a"), None) is None


def test_range_of_a_changed_service_serves_its_current_endpoints() -> None:
    """Upstream keeps the old entry of a range beside the new one (docs/WIRE.md#mesh-state)."""
    snap = snapshot(RANGE)
    snap, _ = apply(snap, batch(workload("w", "10.0.0.1", services={"range": {80: 80}})))
    found = snap.service_at("", parse_ip("10.9.0.1"), "apps")
    assert found is not None
    assert uids(snap, found.key) == {"w"}


# --- endpoints

WEB = service("web", "10.9.0.1")
ALL = dataclasses.replace(WEB, load_balancing=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL))
W = workload("w", "10.0.0.1", services={"web": {80: 8080}})
SICK = dataclasses.replace(W, status=Health.UNHEALTHY)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([[WEB], [W]], {"w"}, id="service first"),
        pytest.param([[W], [WEB]], {"w"}, id="workload first (staged)"),
        pytest.param([[W, WEB]], {"w"}, id="together"),
        pytest.param([[W]], set(), id="no service"),
        pytest.param([[WEB], [SICK]], set(), id="unhealthy"),
        pytest.param([[SICK], [WEB]], set(), id="unhealthy staged"),
        pytest.param([[ALL], [SICK]], {"w"}, id="unhealthy, all allowed"),
        pytest.param([[SICK], [ALL]], {"w"}, id="unhealthy staged, all allowed"),
        pytest.param([[WEB, W], [SICK]], set(), id="falls ill"),
        pytest.param([[WEB, SICK], [W]], {"w"}, id="recovers"),
        pytest.param([[WEB, SICK], [ALL]], {"w"}, id="policy allows all"),
        pytest.param([[ALL, SICK], [WEB]], set(), id="policy allows healthy only"),
        pytest.param([[WEB, W], [workload("w", "10.0.0.1")]], set(), id="link taken away"),
        pytest.param([[WEB, W], ["w"]], set(), id="workload removed"),
        pytest.param([[W], ["w"], [WEB]], set(), id="staged, then removed"),
        pytest.param([[WEB, W], ["web"]], set(), id="service removed"),
        pytest.param([[WEB, W], ["web"], [WEB]], {"w"}, id="service removed and back"),
        pytest.param([[WEB, W], ["web"], [SICK], [WEB]], set(), id="ill while the service was away"),
        pytest.param([[WEB, W], ["web"], ["w"], [WEB]], set(), id="gone while the service was away"),
        pytest.param([[WEB, W], [dataclasses.replace(WEB, ports={80: 1})]], {"w"}, id="service updated"),
    ],
)
def test_endpoints_follow_links_and_health(steps: list[list], expected: set[str]) -> None:
    names = {"w": W.uid, "web": str(WEB.key)}
    snap = Snapshot(node="n1")
    for step in steps:
        removed = tuple(names[r] for r in step if isinstance(r, str))
        snap, _ = apply(snap, batch(*(r for r in step if not isinstance(r, str)), removed=removed))
        snap.endpoints(WEB.key)  # a memo from here must not survive the next step
    assert uids(snap, WEB.key) == expected


def test_endpoints_carry_the_workload_as_it_is_now() -> None:
    snap = snapshot(WEB, W)
    assert snap.endpoints(WEB.key).all[0].ports == {80: 8080}
    changed = workload("w", "10.0.0.7", services={"web": {80: 9090}})
    snap, _ = apply(snap, batch(changed))
    [endpoint] = snap.endpoints(WEB.key).all
    assert (endpoint.workload, endpoint.ports) == (changed, {80: 9090})


# --- policies


def test_memo_of_policies_follows_policies_and_lists() -> None:
    lister = workload("w", "10.0.0.1", authorization_policies=("apps/d",))
    snap = snapshot(lister)
    assert snap.policies_for(lister).missing == (MissingPolicy("apps/d"),)
    snap, _ = apply(snap, batch(deny("d")))
    assert snap.policies_for(lister).missing == ()
    assert [p.name for p in snap.policies_for(lister).deny] == ["d"]
    free = workload("w", "10.0.0.1")
    snap, _ = apply(snap, batch(free))
    assert [p.name for p in snap.policies_for(free).deny] == ["d"]  # by namespace scope
