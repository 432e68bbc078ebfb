"""Workloads and services in rows: what is found is what was put in, by every name it has, however it came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from agent.model import table
from agent.model.address import IP, NetworkAddress, parse_cidr, parse_ip
from agent.model.limits import ConnectionLimit, Limits
from agent.model.policy import Match, ServiceAccountMatch, StringMatch, StringMatchKind
from agent.model.service import (
    CidrVip,
    HealthPolicy,
    IPFamilies,
    LoadBalancing,
    Mode,
    Scope,
    Service,
    Visibility,
    WeightedWaypoint,
)
from agent.model.workload import (
    ApplicationTunnel,
    Health,
    Locality,
    TunnelProtocol,
    TunnelToApplication,
    Workload,
    WorkloadType,
)
from agent.state.apply import apply
from agent.state.directory import address_rank
from agent.state.draft_addresses import SLACK_BYTES
from agent.state.shelf import KEPT
from agent.state.snapshot import Snapshot
from tests.support.mesh import batch, gateway, key, pods, service, snapshot, workload
from tests.unit.state.test_apply import OPERATIONS, replay, survivors

EVERY_FIELD = Workload(
    uid="c7/vm/1",
    name="vm-1",
    namespace="apps",
    addresses=(parse_ip("fd00::1"), parse_ip("10.0.0.1"), parse_ip("10.0.0.2")),
    network="n2",
    protocol=TunnelProtocol.HBONE,
    trust_domain="other.test",
    service_account="web",
    waypoint=gateway("n1/10.0.0.9"),
    network_gateway=gateway(key("gw")),
    node="n1",
    canonical_name="web",
    canonical_revision="v2",
    workload_type=WorkloadType.JOB,
    workload_name="web",
    native_tunnel=True,
    authorization_policies=("apps/a", "apps/b"),
    status=Health.UNHEALTHY,
    cluster_id="c7",
    hostname="vm.example.test",
    services={key("web"): {80: 8080}, key("db"): {}},
    application_tunnel=ApplicationTunnel(TunnelToApplication.PROXY, None),
    locality=Locality("r", "z", "s"),
    host_network=True,
    capacity=7,
    limits=(
        ConnectionLimit("annotation", Limits(0, None, 5000)),
        ConnectionLimit(
            "ConnectionLimit apps/web",
            Limits(None, 7),
            (
                Match(
                    namespaces=(StringMatch(StringMatchKind.PREFIX, "a"),),
                    not_namespaces=(StringMatch(StringMatchKind.SUFFIX, "b"),),
                    principals=(StringMatch(StringMatchKind.PRESENCE),),
                    not_principals=(StringMatch(StringMatchKind.EXACT, "c"),),
                    service_accounts=(ServiceAccountMatch("apps", "d"),),
                    not_service_accounts=(ServiceAccountMatch("apps", "e"),),
                ),
                Match(namespaces=(StringMatch(StringMatchKind.EXACT, "f"),)),
            ),
        ),
    ),
)
WHOLE_SERVICE = Service(
    name="web",
    namespace="apps",
    hostname="web.example.test",
    vips=(NetworkAddress("n1", parse_ip("10.9.0.1")), NetworkAddress("n1", parse_ip("fd09::1"))),
    cidr_vips=(CidrVip("n2", parse_cidr("10.8.0.0/16")),),
    ports={80: 8080, 81: 0},
    subject_alt_names=("spiffe://x",),
    waypoint=gateway(key("wp")),
    weighted_waypoints=(WeightedWaypoint(gateway(key("wp")), 3),),
    load_balancing=LoadBalancing(Mode.STRICT, (Scope.ZONE,), HealthPolicy.ALLOW_ALL),
    ip_families=IPFamilies.DUAL,
    canonical=True,
    visibility=Visibility.NAMESPACE,
)
SEVERAL_NETWORKS = service("several", "n1/10.9.0.1", "10.9.0.1", "n1/fd09::1")


@pytest.mark.parametrize(
    "resource",
    [
        EVERY_FIELD,
        workload("pod", "10.0.0.1"),
        workload("plain", uid="some uid", cluster_id="c2"),
        WHOLE_SERVICE,
        SEVERAL_NETWORKS,
        service("none"),
    ],
)
def test_what_is_kept_is_what_was_said(resource: Workload | Service) -> None:
    """Also beside another that is like it in all but one field."""
    assert all(getattr(EVERY_FIELD, f.name) != f.default for f in dataclasses.fields(Workload))
    others = [
        dataclasses.replace(resource, **{f.name: getattr(other, f.name)})
        for other in (EVERY_FIELD, WHOLE_SERVICE)
        if type(other) is type(resource)
        for f in dataclasses.fields(resource)
        if f.name not in ("uid", "namespace", "hostname")
    ]
    for other in others:
        snap = snapshot(other)
        for one in (resource, other, resource):
            snap, _ = apply(snap, batch(one))
            (kept,) = (*snap.workloads.values(), *snap.services.values())
            assert repr(kept) == repr(one)


class Naive:
    """What a list of resources means, found by walking over it."""

    def __init__(self, resources: list[Workload | Service]) -> None:
        self.workloads = [r for r in resources if isinstance(r, Workload)]
        self.services = [r for r in resources if isinstance(r, Service)]

    def workload_at(self, ip: IP) -> Workload | None:
        found = [w for w in self.workloads if ip in w.addresses and not w.host_network]
        best = max(map(address_rank, found), default=0)
        return next((w for w in reversed(found) if address_rank(w) == best), None)

    def linked(self, to: Service) -> list[Workload]:
        everyone = to.load_balancing.health_policy is HealthPolicy.ALLOW_ALL
        linked = [w for w in self.workloads if to.key in w.services]
        return [w for w in linked if everyone or w.status is Health.HEALTHY]


@pytest.fixture(params=[table.HASH_BITS, 3], ids=["hashes differ", "hashes meet"])
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(table, "HASH_BITS", request.param)
    yield


@pytest.mark.usefixtures("hashes")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_after_any_history_each_is_found_by_each_of_its_names(operations: list) -> None:
    snap = replay(operations)
    naive = Naive([r for r in survivors(operations) if isinstance(r, Workload | Service)])
    assert list(snap.workloads.values()) == naive.workloads
    assert list(snap.services.values()) == naive.services
    assert set(snap.workloads) == {w.uid for w in naive.workloads} and set(snap.services) == {
        s.key for s in naive.services
    }
    for ip in map(parse_ip, ("10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.9")):
        assert snap.workload_at("", ip) == naive.workload_at(ip)
    for name in ("w0", "w1", "w2", "w3"):
        uid = workload(name).uid
        assert snap.workloads.get(uid) == next((w for w in naive.workloads if w.uid == uid), None)
        assert list(snap.workloads_named("apps", name)) == [w for w in naive.workloads if w.name == name]
    for hostname in ("h1", "h2", ""):
        first = next((w for w in naive.workloads if hostname and w.hostname == hostname), None)
        assert snap.workload_by_hostname("apps", hostname) == first
    for vip in (NetworkAddress("", parse_ip("10.9.0.1")), NetworkAddress("n2", parse_ip("10.9.0.1"))):
        assert list(snap.services.at(vip)) == [s for s in naive.services if vip in s.vips]
    for each in naive.services:
        assert list(snap.services.with_hostname(each.hostname)) == [each]
        assert [e.workload for e in snap.endpoints(each.key).all] == naive.linked(each)
    for node in ("n1", "n2"):
        assert {w.uid for w in snap.workloads.on_node(node)} == {
            w.uid for w in naive.workloads if w.node == node
        }
    assert sorted(snap.workloads.announced()) == sorted(
        f"apps/{w.name}" for w in naive.workloads if w.protocol is TunnelProtocol.HBONE
    )


def test_what_is_gone_does_not_pile_up() -> None:
    """Rows are only ever added: now and then all that is needed goes to a new shelf, and every index with it."""
    web = service("web", "10.9.0.1")
    stays = pods(5, services={"web": {80: 8080}})
    snap = snapshot(web, *stays)
    first, most_bytes = snap.workloads.shelf, 0
    for n in range(60):
        changing = pods(60, first=100, services={"web": {80: 9000 + n}}, canonical_revision=f"v{n}")
        snap, _ = apply(snap, batch(*changing, dataclasses.replace(web, ports={80: n + 1})))
        assert len(snap.endpoints(web.key).all) == 65
        most_bytes = max(most_bytes, snap.workloads.shelf.total_bytes)
    assert snap.workloads.shelf is not first
    assert most_bytes < 3 * snap.workloads.live_bytes + 2 * SLACK_BYTES
    assert list(snap.workloads.values()) == [*stays, *changing]
    assert snap.workload_at("", stays[0].addresses[0]) == stays[0]
    assert {e.ports[80] for e in snap.endpoints(web.key).all} == {8080, 9059}
    gone, _ = apply(snap, batch(removed=tuple(w.uid for w in changing)))
    assert list(gone.workloads.values()) == stays == [e.workload for e in gone.endpoints(web.key).all]
    assert len(snap.workloads) == 65, "a snapshot stays what it is"


def test_only_some_are_kept_as_objects() -> None:
    many = pods(KEPT + 50)
    snap = snapshot(*many)
    for each in many:
        assert snap.workload_at("", each.addresses[0]) == each
        assert len(snap.workloads.shelf._made) <= KEPT
    assert snap.workload_at("", many[-1].addresses[0]) is snap.workloads[many[-1].uid]


def test_a_mapping_says_what_it_does_not_have() -> None:
    snap = Snapshot()
    with pytest.raises(KeyError, match="nobody"):
        snap.workloads["nobody"]
    with pytest.raises(KeyError, match="web"):
        snap.services[key("web")]
    assert "nobody" not in snap.workloads and key("web") not in snap.services
    assert snap.workloads.some() is None and not snap.workloads
