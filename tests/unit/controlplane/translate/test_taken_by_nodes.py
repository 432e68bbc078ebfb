"""What the control plane serves is what an agent can use: manifests to resources, decoded and resolved as on a node."""

from __future__ import annotations

from random import Random

import pytest

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.objects import Service
from agent.controlplane.translate.addressing import Addressing
from agent.controlplane.translate.compose import translate
from agent.controlplane.translate.mesh import MeshSettings
from agent.model.address import NamespacedHostname, SocketAddress, parse_ip
from agent.model.outcome import Outcome, Refusal
from agent.model.route import Hop, Route
from agent.state.apply import Batch, apply
from agent.state.resolve import Options, resolve
from agent.state.snapshot import Snapshot
from agent.wire.xds_decode import decode_address, decode_authorization
from tests.support.controlplane import pod
from tests.unit.controlplane.translate import golden
from tests.unit.controlplane.translate.places import (
    CANARY,
    FOR_ALL,
    endpoint_slice,
    gateway,
    namespace,
    node,
    service,
    service_entry,
    workload_entry,
)

NONE = "resolution: NONE, addresses: [10.7.0.0/16]"
CLIENT = pod("client", "n1", "10.0.0.1")


class Node:
    """A node that has been told everything that these manifests come to."""

    def __init__(self, *texts: str, network: str = "") -> None:
        standing = admit(NOTHING, {"f": parse("f", CLIENT + "".join(texts))})
        assert not standing.errors, standing.errors
        found = collect(standing.served())
        asked: list[Service | ServiceEntry] = [*found.services, *found.service_entries]
        given = Addressing.of(asked, found.pods, (), {}).given
        everything = collect(given.get(o.meta.key, o) for o in standing.served())
        served = translate(everything, {}, MeshSettings())
        addresses = tuple(decode_address(name, r.value) for name, r in served.addresses.items())
        self.state, _ = apply(Snapshot(node="n1"), Batch(addresses=addresses))
        self._network = network

    def route(self, ip: str, port: int = 80) -> Route:
        client = self.state.workloads["Kubernetes//Pod/demo/client"]
        destination = SocketAddress(parse_ip(ip), port)
        return resolve(self.state, client, destination, Random(1), Options(network=self._network))

    def refusal(self, ip: str, port: int = 80) -> Outcome:
        with pytest.raises(Refusal) as refusal:
            self.route(ip, port)
        return refusal.value.outcome


@pytest.mark.parametrize("case", golden.cases())
def test_an_agent_takes_every_resource_of_the_recordings(case: str) -> None:
    text = golden.source(case)
    files = {"f": parse("f", text, stored=True)}
    served = translate(collect(admit(NOTHING, files).served()), {}, MeshSettings())
    for name, resource in served.addresses.items():
        assert decode_address(name, resource.value)
    for name, policy in served.policies.items():
        assert decode_authorization(name, policy.resource.value)


def test_a_service_without_a_selector_leads_to_the_addresses_of_its_slices() -> None:
    at = Node(
        service("s", "demo", "", "10.96.0.1"),
        endpoint_slice("s", "{addresses: [10.2.0.1]}", "{addresses: [10.2.0.2], conditions: {ready: false}}"),
    )
    route = at.route("10.96.0.1")
    assert (route.hop, str(route.target)) == (Hop.TCP, "10.2.0.1:8080")
    assert at.route("10.2.0.1", 9).hop is Hop.PASSTHROUGH, "nobody is known by the address itself"


def test_of_networks_that_contain_an_address_the_longest_prefix_counts() -> None:
    inner = "resolution: STATIC, addresses: [10.7.8.0/24], endpoints: [{address: 10.6.0.1}]"
    at = Node(
        service_entry("wide", "demo", "wide.example.com", NONE),
        service_entry("narrow", "demo", "narrow.example.com", inner),
    )
    assert str(at.route("10.7.8.9").target) == "10.6.0.1:80"
    assert (at.route("10.7.9.9").hop, str(at.route("10.7.9.9").target)) == (Hop.PASSTHROUGH, "10.7.9.9:80")
    assert at.refusal("10.7.8.9", 81) is Outcome.UNDECLARED_SERVICE_PORT


def test_a_host_without_an_address_gets_one_that_leads_to_its_endpoints() -> None:
    spec = "resolution: STATIC, endpoints: [{address: 10.6.0.1}]"
    at = Node(service_entry("e", "demo", "x.example.com", spec))
    found = at.state.services[NamespacedHostname("demo", "x.example.com")]
    assert len(found.vips) == 2
    for vip in found.vips:
        assert str(at.route(str(vip.ip)).target) == "10.6.0.1:80"


def test_a_machine_is_reached_as_it_says_and_a_pod_of_its_address_comes_first() -> None:
    machine = workload_entry(
        "vm",
        "demo",
        "10.5.0.1",
        ", serviceAccount: vm, ports: {http: 9000}, labels: {app: vm}",
        "networking.istio.io/tunnel: http",
    )
    at = Node(service("s", "demo", "app: vm", "10.96.0.1", port="name: http, "), machine)
    route = at.route("10.96.0.1")
    assert (route.hop, route.authority) == (Hop.HBONE, "10.5.0.1:9000")
    assert [str(identity) for identity in route.accepted] == ["spiffe://cluster.local/ns/demo/sa/vm"]
    taken = Node(pod("web", "n2", "10.5.0.1"), machine).state.workload_at("", parse_ip("10.5.0.1"))
    assert taken is not None and taken.name == "web"


def waypoint_pod(name: str, ip: str) -> str:
    return pod(f"{name}-pod", "n2", ip, labels=f"gateway.networking.k8s.io/gateway-name: {name}")


def test_connections_go_through_the_waypoint_of_the_service_and_of_the_pod() -> None:
    own = service("wp", "demo", "gateway.networking.k8s.io/gateway-name: wp", "10.96.9.1")
    at = Node(
        namespace("demo", **{"istio.io/use-waypoint": "wp"}),
        gateway("wp", "demo", ip="10.96.9.1", meta=FOR_ALL),
        own.replace("port: 80, targetPort: 8080", "port: 15008"),
        waypoint_pod("wp", "10.0.9.1"),
        service("s", "demo", "app: web", "10.96.0.1"),
        pod("web", "n2", "10.0.0.2"),
    )
    for dialled, authority in (("10.96.0.1", "10.96.0.1:80"), ("10.0.0.2", "10.0.0.2:80")):
        route = at.route(dialled)
        assert (route.hop, str(route.target), route.authority) == (Hop.HBONE, "10.0.9.1:15008", authority)


def test_a_waypoint_without_a_pod_is_not_gone_past() -> None:
    at = Node(
        gateway("wp", "demo", ip="10.96.9.1"),
        service("s", "demo", "app: web", "10.96.0.1", labels="istio.io/use-waypoint: wp"),
        pod("web", "n2", "10.0.0.2"),
    )
    assert at.refusal("10.96.0.1") is Outcome.UNKNOWN_WAYPOINT


def test_a_canary_has_its_share() -> None:
    marked = service("s", "demo", "app: web", "10.96.0.1", labels=CANARY)
    at = Node(
        gateway("wp", "demo", ip="10.0.9.1"),
        gateway("far", "shop", ip="10.0.9.2", allows="from: All"),
        marked.replace("labels:", "annotations: {istio.io/use-waypoint-canary-weight: '25'}, labels:"),
        pod("web", "n2", "10.0.0.2"),
    )
    [found] = at.state.services.values()
    shares = {str(w.waypoint.destination).rpartition("/")[2]: w.weight for w in found.weighted_waypoints}
    assert shares == {"10.0.9.1": 75, "10.0.9.2": 25}


def test_the_endpoint_of_the_same_zone_is_preferred() -> None:
    close = service("s", "demo", "app: vm", "10.96.0.1").replace(
        "spec: {", "spec: {trafficDistribution: PreferSameZone, "
    )
    near = workload_entry("near", "demo", "10.5.0.1", ", locality: r/a, labels: {app: vm}")
    far = workload_entry("far", "demo", "10.5.0.2", ", locality: r/b, labels: {app: vm}")
    region = '"topology.kubernetes.io/region": r, "topology.kubernetes.io/zone"'
    at = Node(node("n1", "a").replace('"topology.kubernetes.io/zone"', region), close, near, far)
    assert {str(at.route("10.96.0.1").target) for _ in range(8)} == {"10.5.0.1:8080"}
