"""What entries, slices and waypoints ask for and do not get is said, to the agents that it concerns."""

from __future__ import annotations

import pytest

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.remarks import Remark, Scope, Weight
from agent.controlplane.translate.effects import remarks
from agent.controlplane.translate.mesh import MeshSettings, mesh_of
from tests.support.controlplane import pod
from tests.unit.controlplane.translate.places import (
    CANARY,
    HIDES,
    WEB_HOST,
    endpoint_slice,
    gateway,
    gateway_class,
    mesh_config,
    namespace,
    service,
    service_entry,
    workload_entry,
)

FAR = ", labels: {topology.istio.io/network: vpc}"
BOUND = ", annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}"
WEB = pod("web", "n1", "10.0.0.1")
SERVICE = service("s", "demo", "app: web", "10.96.0.1")
STATIC = "resolution: STATIC, endpoints: [{address: 10.6.0.1}]"
WAYPOINT = gateway("wp", "demo", ip="10.96.9.1")


def said(text: str, *, stored: bool = False) -> list[Remark]:
    standing = admit(NOTHING, {"f.yaml": parse("f.yaml", text, stored)})
    assert not standing.errors, standing.errors
    everything = collect(standing.served())
    return list(remarks(everything, mesh_of(everything, MeshSettings())))


def uses(waypoint: str) -> str:
    return service("s", "demo", "app: web", "10.96.0.1", labels=waypoint)


@pytest.mark.parametrize(
    ("text", "problem", "scope"),
    [
        (uses("istio.io/use-waypoint: wp"), "demo/wp: there is no such Gateway, or it has no", Scope("demo")),
        (
            uses("istio.io/use-waypoint: far")
            + gateway("far", "demo", ip="10.9.0.1", meta=", labels: {istio.io/waypoint-for: workload}"),
            "demo/far is not for such (istio.io/waypoint-for)",
            Scope("demo"),
        ),
        (
            uses("istio.io/use-waypoint: far, istio.io/use-waypoint-namespace: shop")
            + gateway("far", "shop", ip="10.9.0.1"),
            "shop/far: its listener lets in other namespaces",
            Scope("demo"),
        ),
        (
            uses("istio.io/use-waypoint-namespace: shop"),
            "no effect without istio.io/use-waypoint",
            Scope("demo"),
        ),
        (uses("istio.io/ingress-use-waypoint: maybe"), "'maybe' is none of true, false", Scope("demo")),
        (uses(CANARY) + WAYPOINT, "there is no such second waypoint for it", Scope("demo")),
        (
            namespace("demo", **{"istio.io/use-waypoint": "wp"}),
            "so connections to it go without one",
            Scope("demo"),
        ),
        (
            pod("own", "n7", "10.0.0.7", labels="istio.io/use-waypoint: wp"),
            "there is no such Gateway",
            Scope(node="n7"),
        ),
        (
            gateway("wp", "demo", ip="10.9.0.1", meta=", labels: {istio.io/waypoint-for: services}"),
            "'services' is none of service, workload, all, none",
            Scope("demo"),
        ),
        (
            gateway_class("c", "annotations: {ambient.istio.io/waypoint-inbound-binding: PROXI}"),
            "'PROXI' is none of NONE, PROXY",
            Scope(None),
        ),
        (
            service_entry("e", "demo", WEB_HOST, STATIC) + SERVICE,
            f"host {WEB_HOST} is that of Service demo/s",
            Scope("demo"),
        ),
        (
            service_entry("a", "demo", "x.example.com", STATIC)
            + service_entry("b", "demo", "x.example.com", STATIC),
            "is that of ServiceEntry demo/a",
            Scope("demo"),
        ),
        (
            service_entry(
                "e", "demo", "'*.example.com', y.example.com", "resolution: NONE, addresses: [10.7.0.0/16]"
            ),
            "node proxies cannot resolve *.example.com, so connections to such are as without it",
            Scope("demo"),
        ),
        (
            service_entry("e", "demo", "'*.example.com'", "resolution: DYNAMIC_DNS"),
            "cannot resolve *.example.com, so by captured DNS their names get an address that nobody answers",
            Scope("demo"),
        ),
        (
            service_entry("e", "demo", "x.example.com", "resolution: NONE"),
            "x.example.com: no address is theirs, so connections there are as without the entry",
            Scope("demo"),
        ),
        (
            workload_entry("w", "demo", "10.5.0.1", ", network: vpc"),
            "no gateway leads into network 'vpc'",
            Scope("demo"),
        ),
        (
            service_entry("e", "demo", "x.example.com", STATIC.replace("1}", "1, network: vpc}")),
            "no gateway leads into network 'vpc'",
            Scope("demo"),
        ),
        (
            SERVICE
            + endpoint_slice("s", "{addresses: [10.2.0.1]}").replace("port: 8080", "port: 8080, name: web"),
            "no port of its Service is called 'web'",
            Scope("demo"),
        ),
        (
            gateway("in", "demo", of="nginx", ip="10.3.0.1", listens="port: 15008, protocol: HBNOE"),
            "'HBNOE' is none of HTTP, HTTPS, TLS, TCP, UDP, HBONE",
            Scope("demo"),
        ),
        (
            gateway(
                "far", "demo", of="istio-remote", ip="10.3.0.1", meta=FAR, listens="port: 1, protocol: TLS"
            ),
            "none of them takes HBONE, so it leads nobody into network 'vpc'",
            Scope(None),
        ),
        (
            gateway("far", "demo", of="istio-remote", ip="10.3.0.1"),
            "it is missing, so it leads nobody into another network",
            Scope("demo"),
        ),
    ],
)
def test_what_does_nothing_concerns_the_agents_of_its_pods(text: str, problem: str, scope: Scope) -> None:
    [remark] = [r for r in said(WEB + text) if r.weight is Weight.INEFFECTIVE]
    assert problem in remark.problem and remark.scope == scope


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (endpoint_slice("nobody", "{addresses: [10.2.0.1]}"), "there is no Service demo/nobody"),
        (service("s", "demo", "", "10.96.0.1"), "it has no selector, and no EndpointSlice is of it"),
        (
            namespace("demo", **{"istio.io/dataplane-mode": "ambient"}),
            "istio.io/dataplane-mode (`ztun enroll` says who is captured",
        ),
        (gateway("wp", "demo"), "it has no address, so it is nobody's waypoint"),
        (
            uses("istio.io/use-waypoint: in") + gateway("in", "demo", of="istio", ip="10.3.0.1"),
            "class istio is of ingress gateways, and Service demo/s goes through it as a waypoint",
        ),
        (
            gateway("wp", "demo", ip="10.3.0.1", listens="port: 15009, protocol: HBONE"),
            "none of them is of HBONE on port 15008",
        ),
        (
            service_entry("e", "demo", "x.example.com", f"{STATIC}, exportTo: ['.']"),
            "no effect here: exportTo .",
        ),
        (
            service_entry("e", "demo", "x.example.com", STATIC).replace(
                "name: http", "name: http, protocol: UDP"
            ),
            "ztun serves TCP alone",
        ),
        (
            service_entry(
                "e", "demo", "x.example.com", "resolution: STATIC, workloadSelector: {labels: {app: wbe}}"
            ),
            "no workload of namespace demo has the labels app=wbe",
        ),
        (
            mesh_config(HIDES)
            + namespace("demo", mesh="'yes'")
            + service_entry("e", "demo", "x.example.com", STATIC),
            "hides it from everybody",
        ),
    ],
)
def test_what_may_be_right_is_a_note(text: str, problem: str) -> None:
    found = said(WEB + text)
    assert all(remark.weight is Weight.NOTE for remark in found)
    assert problem in "".join(remark.problem for remark in found)


@pytest.mark.parametrize(
    "text",
    [
        uses("istio.io/use-waypoint: wp") + WAYPOINT,
        namespace("demo", **{"istio.io/use-waypoint": "wp"}) + WAYPOINT,
        service("s", "demo", "", "10.96.0.1") + endpoint_slice("s", "{addresses: [10.2.0.1]}"),
        service_entry(
            "e", "demo", "'*.example.com'", "resolution: NONE", ", labels: {istio.io/use-waypoint: wp}"
        )
        + WAYPOINT,
        service_entry("e", "demo", "x.example.com", "resolution: NONE, addresses: [10.7.0.0/16]"),
        workload_entry("w", "demo", "10.5.0.1", ", network: here")
        + namespace("istio-system", **{"topology.istio.io/network": "here"}),
        uses("istio.io/use-waypoint: none") + namespace("demo"),
        gateway("far", "demo", of="istio-remote", ip="10.3.0.1", meta=FAR),
        gateway("wp", "demo", ip="10.3.0.1", meta=BOUND, listens="port: 15088, protocol: istio.io/PROXY"),
        gateway("in", "demo", of="nginx", ip="10.3.0.1", listens="port: 80, protocol: HTTP"),
        SERVICE + endpoint_slice("s", "{addresses: [10.2.0.1]}"),
        service_entry("e", "demo", "x.example.com", STATIC)
        + service_entry("e", "shop", "x.example.com", STATIC),
        service("s", "demo", "app: vm", "10.96.0.1")
        + workload_entry("w", "demo", "10.5.0.1", ", labels: {app: vm}"),
    ],
)
def test_nothing_is_said_of_what_is_right(text: str) -> None:
    assert said(WEB + text) == []


def test_what_somebody_else_does_in_a_cluster_is_not_said_there() -> None:
    udp = service("s", "demo", "app: web", "10.96.0.1", port="name: u, protocol: UDP, port: 80}, {name: t, ")
    text = WEB + udp + namespace("demo", **{"istio.io/dataplane-mode": "ambient"})
    assert len(said(text)) == 2
    everything = collect(admit(NOTHING, {"f.yaml": parse("f.yaml", text)}).served())
    assert not list(remarks(everything, mesh_of(everything, MeshSettings(is_of_cluster=True))))


def test_what_is_an_option_of_agents_is_named_as_such() -> None:
    [note] = said(mesh_config("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"))
    assert "agents have --unknown-destination" in note.remedy and note.weight is Weight.NOTE


def test_what_an_api_server_let_pass_is_said() -> None:
    contradicting = service_entry("e", "demo", "x.example.com", "endpoints: [{address: 10.6.0.1}]")
    [remark] = [r for r in said(contradicting, stored=True) if r.weight is Weight.INEFFECTIVE]
    assert "resolution NONE goes to the address that was dialled" in remark.problem
