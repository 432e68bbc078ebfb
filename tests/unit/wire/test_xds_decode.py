"""Resources off the wire: every field arrives, defaults are filled in, and what cannot be used says why."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agent.model import policy as p
from agent.model import service as s
from agent.model import workload as w
from agent.model.address import NamespacedHostname, NetworkAddress, parse_cidr, parse_ip
from agent.pb import authorization_pb2, workload_pb2
from agent.wire.xds_decode import DecodeError, decode_address, decode_authorization

V4, V6 = bytes([10, 0, 0, 1]), bytes.fromhex("fd00" + "00" * 13 + "01")
MAPPED = bytes.fromhex("00" * 10 + "ffff0a000001")


def address(**kind: Any) -> bytes:
    return workload_pb2.Address(**kind).SerializeToString()


def decode_workload(**fields: Any) -> w.Workload:
    decoded = decode_address("u1", address(workload=workload_pb2.Workload(**{"uid": "u1", **fields})))
    assert isinstance(decoded, w.Workload)
    return decoded


def decode_service(**fields: Any) -> s.Service:
    decoded = decode_address(
        "apps/web.test",
        address(service=workload_pb2.Service(**{"namespace": "apps", "hostname": "web.test", **fields})),
    )
    assert isinstance(decoded, s.Service)
    return decoded


def decode_policy(**fields: Any) -> p.Authorization:
    message = authorization_pb2.Authorization(**{"name": "x", "namespace": "apps", **fields})
    return decode_authorization("apps/x", message.SerializeToString())


def decode_match(**groups: Any) -> p.Match:
    clause = authorization_pb2.Clause(matches=[authorization_pb2.Match(**groups)])
    decoded = decode_policy(rules=[authorization_pb2.Rule(clauses=[clause])])
    return decoded.rules[0].clauses[0].matches[0]


def test_workload_with_every_field() -> None:
    decoded = decode_workload(
        name="web-0",
        namespace="apps",
        addresses=[V4, V6],
        network="n1",
        tunnel_protocol=1,
        trust_domain="td",
        service_account="web",
        waypoint={"address": {"network": "n1", "address": V4}, "hbone_mtls_port": 15008},
        network_gateway={"hostname": {"namespace": "gw", "hostname": "ew.test"}, "hbone_mtls_port": 15009},
        node="node-a",
        canonical_name="web",
        canonical_revision="v1",
        workload_type=3,
        workload_name="web-job",
        native_tunnel=True,
        authorization_policies=["apps/b", "apps/a"],
        status=1,
        cluster_id="c1",
        hostname="web.example.test",
        services={"apps/web.test": {"ports": [{"service_port": 80, "target_port": 8080}]}},
        application_tunnel={"protocol": 1, "port": 15088},
        locality={"region": "r", "zone": "z", "subzone": "s"},
        network_mode=1,
        capacity={"value": 5},
    )
    assert decoded == w.Workload(
        uid="u1",
        name="web-0",
        namespace="apps",
        addresses=(parse_ip("10.0.0.1"), parse_ip("fd00::1")),
        network="n1",
        protocol=w.TunnelProtocol.HBONE,
        trust_domain="td",
        service_account="web",
        waypoint=w.GatewayAddress(NetworkAddress("n1", parse_ip("10.0.0.1")), 15008),
        network_gateway=w.GatewayAddress(NamespacedHostname("gw", "ew.test"), 15009),
        node="node-a",
        canonical_name="web",
        canonical_revision="v1",
        workload_type=w.WorkloadType.JOB,
        workload_name="web-job",
        native_tunnel=True,
        authorization_policies=("apps/b", "apps/a"),
        status=w.Health.UNHEALTHY,
        cluster_id="c1",
        hostname="web.example.test",
        services={NamespacedHostname("apps", "web.test"): {80: 8080}},
        application_tunnel=w.ApplicationTunnel(w.TunnelToApplication.PROXY, 15088),
        locality=w.Locality("r", "z", "s"),
        host_network=True,
        capacity=5,
    )


def test_workload_defaults() -> None:
    decoded = decode_workload()
    assert decoded == w.Workload(uid="u1", name="", namespace="")
    assert (decoded.trust_domain, decoded.service_account) == ("cluster.local", "default")
    assert (decoded.cluster_id, decoded.capacity) == ("Kubernetes", 1)


def test_workload_conversions() -> None:
    assert decode_workload(addresses=[MAPPED]).addresses == (parse_ip("10.0.0.1"),)
    assert decode_workload(capacity={"value": 0}).capacity == 0
    assert decode_workload(workload_type=77).workload_type is w.WorkloadType.DEPLOYMENT
    assert decode_workload(application_tunnel={}).application_tunnel == w.ApplicationTunnel(
        w.TunnelToApplication.NONE, None
    )


def test_service_with_every_field() -> None:
    decoded = decode_service(
        name="web",
        addresses=[
            {"network": "n1", "address": V4},
            {"address": V6, "length": 128},
            {"address": V4, "length": 24},
            {"network": "n1", "address": V6, "length": 0},
        ],
        ports=[{"service_port": 80, "target_port": 8080}, {"service_port": 81}],
        subject_alt_names=["spiffe://x"],
        waypoint={"address": {"address": V6}, "hbone_mtls_port": 15008},
        load_balancing={"routing_preference": [6, 1], "mode": 2, "health_policy": 1},
        ip_families=2,
        canonical=True,
        weighted_waypoints=[{"destination": {"hostname": {"hostname": "h"}}, "weight": 3}],
        visibility=1,
    )
    assert decoded == s.Service(
        name="web",
        namespace="apps",
        hostname="web.test",
        vips=(NetworkAddress("n1", parse_ip("10.0.0.1")), NetworkAddress("", parse_ip("fd00::1"))),
        cidr_vips=(
            s.CidrVip("", parse_cidr("10.0.0.0/24")),
            s.CidrVip("n1", parse_cidr("::/0")),
        ),
        ports={80: 8080, 81: 0},
        subject_alt_names=("spiffe://x",),
        waypoint=w.GatewayAddress(NetworkAddress("", parse_ip("fd00::1")), 15008),
        weighted_waypoints=(s.WeightedWaypoint(w.GatewayAddress(NamespacedHostname("", "h"), 0), 3),),
        load_balancing=s.LoadBalancing(
            s.Mode.FAILOVER, (s.Scope.NETWORK, s.Scope.REGION), s.HealthPolicy.ALLOW_ALL
        ),
        ip_families=s.IPFamilies.IPV6_ONLY,
        canonical=True,
        visibility=s.Visibility.NAMESPACE,
    )


def test_service_defaults() -> None:
    assert decode_service() == s.Service(name="", namespace="apps", hostname="web.test")
    assert decode_service(visibility=9).visibility is s.Visibility.PUBLIC


def test_policy_with_every_group() -> None:
    strings = [{"exact": "a"}, {"prefix": "b"}, {"suffix": "c"}, {"presence": {}}]
    texts = (
        p.StringMatch(p.StringMatchKind.EXACT, "a"),
        p.StringMatch(p.StringMatchKind.PREFIX, "b"),
        p.StringMatch(p.StringMatchKind.SUFFIX, "c"),
        p.StringMatch(p.StringMatchKind.PRESENCE),
    )
    for group in ("namespaces", "not_namespaces", "principals", "not_principals"):
        assert decode_match(**{group: strings}) == p.Match(**{group: texts})
    addresses = [{"address": V4, "length": 24}, {"address": V6, "length": 128}, {"address": V4}]
    cidrs = (parse_cidr("10.0.0.0/24"), parse_cidr("fd00::1/128"), parse_cidr("0.0.0.0/0"))
    for group in ("source_ips", "not_source_ips", "destination_ips", "not_destination_ips"):
        assert decode_match(**{group: addresses}) == p.Match(**{group: cidrs})
    for group in ("destination_ports", "not_destination_ports"):
        assert decode_match(**{group: [0, 80, 65535]}) == p.Match(**{group: (0, 80, 65535)})
    accounts = [{"namespace": "apps", "serviceAccount": "web"}]
    for group in ("service_accounts", "not_service_accounts"):
        assert decode_match(**{group: accounts}) == p.Match(
            **{group: (p.ServiceAccountMatch("apps", "web"),)}
        )


def test_policy_head_and_empty_levels() -> None:
    decoded = decode_policy(scope=2, action=1, dry_run=True, rules=[{}, {"clauses": [{}]}])
    assert decoded == p.Authorization(
        "x",
        "apps",
        p.Scope.WORKLOAD_SELECTOR,
        p.Action.DENY,
        (p.Rule(), p.Rule((p.Clause(),))),
        dry_run=True,
    )
    assert decode_policy() == p.Authorization("x", "apps", p.Scope.GLOBAL, p.Action.ALLOW)


def test_mapped_range_of_a_policy_is_the_ipv4_range() -> None:
    assert decode_match(source_ips=[{"address": MAPPED, "length": 120}]).source_ips == (
        parse_cidr("10.0.0.0/24"),
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"uid": ""}, "uid"),
        ({"addresses": [V4, b"\1\2\3"]}, r"addresses\[1\]: .*not 3"),
        ({"addresses": [b""]}, r"addresses\[0\]"),
        ({"tunnel_protocol": 2}, "tunnel_protocol: 2"),
        ({"tunnel_protocol": 9}, "tunnel_protocol: 9"),
        ({"status": 2}, "status: 2"),
        ({"network_mode": 2}, "network_mode: 2"),
        ({"services": {"no-slash": {}}}, "services: 'no-slash'"),
        ({"services": {"a/b/c": {}}}, "services: 'a/b/c'"),
        ({"services": {"a/b": {"ports": [{"service_port": 65536}]}}}, "service_port: 65536"),
        ({"services": {"a/b": {"ports": [{"target_port": 70000}]}}}, "target_port: 70000"),
        ({"waypoint": {"hbone_mtls_port": 1}}, "waypoint.destination"),
        ({"waypoint": {"address": {"address": b"x"}}}, "waypoint.address"),
        ({"waypoint": {"hostname": {}, "hbone_mtls_port": 65536}}, "waypoint.hbone_mtls_port: 65536"),
        ({"network_gateway": {}}, "network_gateway.destination"),
        ({"application_tunnel": {"protocol": 2}}, "application_tunnel.protocol: 2"),
        ({"application_tunnel": {"port": 65536}}, "application_tunnel.port: 65536"),
    ],
)
def test_workload_that_cannot_be_used(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError, match=rf"^u1: .*{says}"):
        decode_workload(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hostname": ""}, "hostname"),
        ({"addresses": [{"address": b"x"}]}, r"addresses\[0\]"),
        ({"addresses": [{"address": V4, "length": 33}]}, r"addresses\[0\]: prefix length 33"),
        ({"addresses": [{"address": V6, "length": 129}]}, r"addresses\[0\]: prefix length 129"),
        ({"addresses": [{"length": 0}]}, r"addresses\[0\]"),
        ({"ports": [{"service_port": 65536}]}, "ports.service_port: 65536"),
        ({"ports": [{"service_port": 80, "target_port": 2**32 - 1}]}, "ports.target_port"),
        ({"load_balancing": {"mode": 4}}, "load_balancing.mode: 4"),
        ({"load_balancing": {"routing_preference": [0]}}, "load_balancing.routing_preference: 0"),
        ({"load_balancing": {"health_policy": 2}}, "load_balancing.health_policy: 2"),
        ({"ip_families": 4}, "ip_families: 4"),
        ({"waypoint": {}}, "waypoint.destination"),
        ({"weighted_waypoints": [{"weight": 1}]}, r"weighted_waypoints\[0\].destination"),
    ],
)
def test_service_that_cannot_be_used(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError, match=rf"^apps/web.test: .*{says}"):
        decode_service(**fields)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        # Upstream drops these entries, and the list then means something else (docs/WIRE.md#policies).
        ({"source_ips": [{"address": V4, "length": 24}, {"address": b"abc"}]}, r"source_ips\[1\]"),
        ({"not_source_ips": [{}]}, r"not_source_ips\[0\]"),
        ({"destination_ips": [{"address": V4, "length": 33}]}, r"destination_ips\[0\]: prefix length 33"),
        ({"namespaces": [{}]}, r"namespaces\[0\]: no kind of match"),
        ({"not_principals": [{"exact": "a"}, {}]}, r"not_principals\[1\]: no kind of match"),
        ({"destination_ports": [80, 65536]}, r"destination_ports\[1\]: 65536"),
        ({"not_destination_ports": [2**32 - 1]}, r"not_destination_ports\[0\]"),
    ],
)
def test_policy_with_an_unusable_entry_is_refused_whole(groups: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError, match=rf"^apps/x: rules\[0\]\.clauses\[0\]\.matches\[0\]\.{says}"):
        decode_match(**groups)


@pytest.mark.parametrize(("fields", "says"), [({"scope": 3}, "scope: 3"), ({"action": 2}, "action: 2")])
def test_policy_with_an_unknown_word_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError, match=f"^apps/x: {says}"):
        decode_policy(**fields)


def test_bytes_that_are_no_resource() -> None:
    with pytest.raises(DecodeError, match=r"^n: type: neither workload nor service"):
        decode_address("n", b"")
    with pytest.raises(DecodeError, match=r"^n: not an istio\.workload.Address"):
        decode_address("n", b"\x0a\xff")
    with pytest.raises(DecodeError, match=r"^n: not an istio\.security.Authorization"):
        decode_authorization("n", b"\x0a\x02\xff\xfe")  # a name that is not UTF-8


def test_links_come_in_one_order_whatever_the_map_says() -> None:
    names = [f"apps/s{n}.test" for n in range(20)]
    decoded = decode_workload(services={name: {} for name in reversed(names)})
    assert list(map(str, decoded.services)) == sorted(names)


def test_what_workloads_say_alike_is_held_once() -> None:
    """Of 100,000 pods most is alike; the name of each is that by which the control plane knows it."""

    def decoded(name: str) -> w.Workload:
        pod = workload_pb2.Workload(
            uid=name,
            namespace="apps of some team",
            node="a node",
            service_account="some account",
            canonical_name="an app",
            canonical_revision="v7",
            workload_name="an app",
            cluster_id="a cluster",
            network="a network",
            authorization_policies=["apps/one", "apps/two"],
        )
        pod.locality.region = "west"
        for key in ("apps/web.test", "apps/db.test"):
            pod.services[key].ports.add(service_port=80, target_port=8080)
        pod.waypoint.hostname.namespace, pod.waypoint.hostname.hostname = "apps", "waypoint.test"
        resource = decode_address(name, address(workload=pod))
        assert isinstance(resource, w.Workload)
        return resource

    name = "".join(["u", "1"])
    one, other = decoded(name), decoded("u2")
    assert one.uid is name and other.uid == "u2"
    alike = {field.name for field in dataclasses.fields(w.Workload)} - {"uid"}
    apart = {field for field in alike if getattr(one, field) is not getattr(other, field)}
    assert not apart
    assert list(one.services) == [
        NamespacedHostname("apps", "db.test"),
        NamespacedHostname("apps", "web.test"),
    ]


def test_a_refusal_is_no_memory() -> None:
    """What is remembered of links is what could be used: the same wrong ones are refused again."""
    for _ in range(2):
        pod = workload_pb2.Workload(uid="u1")
        pod.services["apps/web.test"].ports.add(service_port=80, target_port=70000)
        with pytest.raises(DecodeError, match=r"services\['apps/web.test'\].ports.target_port: 70000"):
            decode_address("u1", address(workload=pod))
