"""EndpointSlice, WorkloadEntry, ServiceEntry and Gateway: what is refused of them, with the place and the remedy."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.kinds import KINDS
from agent.controlplane.read.manifests import Manifest, parse
from agent.controlplane.read.mesh_objects import EndpointSlice, Gateway, ServiceEntry, WorkloadEntry
from agent.controlplane.read.refused import Outcome
from agent.controlplane.read.remarks import Weight
from tests.unit.controlplane.translate.places import gateway, workload_entry


def endpoint_slice(endpoints: str, ports: str = "{port: 80}", kind: str = "IPv4", version: str = "v1") -> str:
    return f"""apiVersion: discovery.k8s.io/{version}
kind: EndpointSlice
metadata: {{name: s-1, namespace: demo, labels: {{kubernetes.io/service-name: s}}}}
addressType: {kind}
endpoints: [{endpoints}]
ports: [{ports}]
"""


def entry(spec: str, hosts: str = "x.example.com", ports: str = "{number: 80, name: http}") -> str:
    return f"""apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: e, namespace: demo}}
spec: {{hosts: [{hosts}], ports: [{ports}], {spec}}}
"""


def error(text: str) -> str:
    [refusal] = parse("f.yaml", text).refused
    [only] = refusal.errors
    assert only.file == "f.yaml" and only.line > 0
    return f"{only.field}: {only.problem}"


STATIC = "resolution: STATIC"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (endpoint_slice("{addresses: []}"), "endpoints[0].addresses: it is missing: an endpoint has"),
        (endpoint_slice("{addresses: [nope]}"), "endpoints[0].addresses[0]: 'nope' is not an IP address"),
        (endpoint_slice("{addresses: ['fd00::1']}"), "fd00::1 is IPv6, and the addressType is IPv4"),
        (endpoint_slice("{addresses: [127.0.0.1]}"), "127.0.0.1 is nobody's address on a network"),
        (endpoint_slice("", kind="IPv5"), "addressType: 'IPv5' is not one of IPv4, IPv6, FQDN"),
        (endpoint_slice("", "{port: 0}"), "ports[0].port: it must be a whole number from 1 to 65535"),
        (
            endpoint_slice("", version="v2"),
            "there is no kind EndpointSlice in discovery.k8s.io/v2; did you mean",
        ),
        (
            endpoint_slice("").replace("kubernetes.io/service-name: s", ""),
            "no label kubernetes.io/service-name",
        ),
        (
            endpoint_slice("").replace("kubernetes.io/service-name: s", "kubernetes.io/service-name: ''"),
            "no label kubernetes.io/service-name",
        ),
        (endpoint_slice("{addresses: [10.0.0.1]}", ports="null"), "ports[0]: an entry without content"),
        (
            workload_entry("w", "demo", "''"),
            "spec.address: it is missing: write an IP address or a host name",
        ),
        (workload_entry("w", "demo", "10.0.0.300"), "spec.address: '10.0.0.300' is not an IP address"),
        (workload_entry("w", "demo", "unix:///run/x"), "node proxies dial no unix sockets"),
        (workload_entry("w", "demo", "10.0.0.1", ", weight: -1"), "spec.weight: it must be a whole number"),
        (
            workload_entry("w", "demo", "10.0.0.1", ", ports: {http: 0}"),
            "spec.ports.http: it must be a whole",
        ),
        (
            workload_entry("w", "demo", "10.0.0.1", ", locality: a//c"),
            "spec.locality: 'a//c' is not a locality",
        ),
        (
            workload_entry("w", "demo", "10.0.0.1", ", serviceAccount: A"),
            "spec.serviceAccount: 'A' is not a name",
        ),
        (entry(STATIC, hosts=""), "spec.hosts: it is missing: name the hosts"),
        (entry(STATIC, hosts="'*'"), "spec.hosts[0]: '*' is not a host name"),
        (entry(STATIC, hosts="a.b, a.b"), "spec.hosts[1]"),
        (
            entry("addresses: [10.0.0.0/33]"),
            "spec.addresses[0]: '10.0.0.0/33' is not an IP address or network",
        ),
        (entry("resolution: LOOKUP"), "spec.resolution: 'LOOKUP' is not one of NONE, STATIC, DNS"),
        (entry("location: INSIDE"), "spec.location: 'INSIDE' is not one of MESH_EXTERNAL"),
        (entry(STATIC, ports="{number: 80}"), "spec.ports[0].name: it is missing: each port has a name"),
        (entry(STATIC, ports="{number: 80, name: a}, {number: 80, name: b}"), "port 80 is given twice"),
        (
            entry(STATIC, ports="{number: 80, name: a, protocol: HTP}"),
            "spec.ports[0].protocol: 'HTP' is none of",
        ),
        (
            entry(f"{STATIC}, endpoints: [{{address: a.example.com}}]"),
            "spec.endpoints[0].address: resolution STATIC takes addresses, and a.example.com is a name",
        ),
        (
            entry(f"{STATIC}, endpoints: [{{address: 10.0.0.1}}], workloadSelector: {{labels: {{a: b}}}}"),
            "spec.workloadSelector: it stands beside endpoints",
        ),
        (entry("endpoints: [{address: 10.0.0.1}]"), "spec.endpoints: resolution NONE goes to the address"),
        (
            entry(f"{STATIC}, endpoints: [{{address: 10.0.0.1, ports: {{nope: 80}}}}]"),
            "spec.endpoints[0].ports.nope: no port of the entry has this name",
        ),
        (entry("resolution: DNS", hosts="'*.x.y'"), "spec.hosts: *.x.y cannot be resolved"),
        (entry("resolution: DNS, addresses: [10.0.0.0/8]"), "a network goes with resolution NONE or STATIC"),
        (
            gateway("g", "demo").replace("port: 15008", "port: 0"),
            "spec.listeners[0].port: it must be a whole",
        ),
        (gateway("g", "demo", allows="from: Some"), "allowedRoutes.namespaces.from: 'Some' is not one of"),
        (gateway("g", "demo", allows="from: Selector"), "namespaces.selector: it is missing"),
        (
            gateway("g", "demo", allows="from: Selector, selector: {matchLables: {a: b}}"),
            "namespaces.selector.matchLables: unknown field; did you mean",
        ),
        (gateway("g", "demo", ip="10.0.0"), "status.addresses[0].value: '10.0.0' is not an IP address"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(text: str, said: str) -> None:
    assert said in error(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (
            entry(f"{STATIC}, adresses: [10.0.0.1]"),
            "spec.adresses: unknown field; did you mean spec.addresses?",
        ),
        (workload_entry("w", "demo", "10.0.0.1", ", wieght: 3"), "did you mean spec.weight?"),
        (endpoint_slice("{addresses: [10.0.0.1], condition: {}}"), "did you mean endpoints[0].conditions?"),
        (gateway("g", "demo").replace("gatewayClassName", "x: 1, gatewayClassName"), "spec.x: unknown field"),
    ],
)
def test_an_unknown_field_is_said_and_the_object_served(text: str, meant: str) -> None:
    read = parse("f.yaml", text)
    assert len(read.objects) == 1 and meant in str(read.remarks[0])


def test_everything_that_is_right_is_read() -> None:
    text = endpoint_slice(
        "{addresses: [10.0.0.1], conditions: {ready: false}}, {addresses: [10.0.0.2], targetRef: {kind: Pod, name: p}}",
        "{name: a, port: 80}, {name: b, port: 81, protocol: UDP}, {name: c}",
        version="v1beta1",
    )
    [found] = parse("f", text).objects
    assert isinstance(found, EndpointSlice) and found.service == "s"
    assert [(e.ready, e.pod) for e in found.endpoints] == [(False, None), (True, ("p", ""))]
    assert [port.name for port in found.ports] == ["a"], "of TCP, with a number"
    [machine] = parse(
        "f", workload_entry("w", "demo", "vm.example.com", ", labels: {a: x, b: y}", "a: z")
    ).objects
    assert isinstance(machine, WorkloadEntry) and machine.endpoint.ip is None
    assert machine.labels == {"a": "z", "b": "y"}, "those of the object are above those of its spec"
    [made] = parse("f", entry("addresses: [10.1.2.3/16, 10.2.0.1, 10.3.0.1/32, 'fd00::/64']")).objects
    assert isinstance(made, ServiceEntry)
    assert [f"{ip}/{n}" for ip, n in made.addresses] == [
        "10.1.0.0/16",
        "10.2.0.1/32",
        "10.3.0.1/32",
        "fd00::/64",
    ]
    spec_only = gateway("g", "demo").replace("spec: {", "spec: {addresses: [{value: 10.96.9.1}], ")
    [of_spec] = parse("f", spec_only).objects
    assert isinstance(of_spec, Gateway) and of_spec.addresses == (("IPAddress", "10.96.9.1"),)
    [of_api] = parse("f", spec_only, stored=True).objects
    assert isinstance(of_api, Gateway) and of_api.addresses == (), "a wish is no address"


def test_what_an_api_server_let_pass_is_taken_and_doubted() -> None:
    [made] = parse("f", entry("endpoints: [{address: 10.0.0.1}]"), stored=True).objects
    assert isinstance(made, ServiceEntry) and made.endpoints
    [doubt] = made.doubts
    assert "resolution NONE goes to the address" in doubt


def test_a_refused_entry_keeps_its_last_good_form_and_else_closes_its_addresses() -> None:
    good, bad = entry("addresses: [10.7.0.1]"), entry("addresses: [10.7.0.1], resolution: NOWHERE")
    standing = admit(NOTHING, {"f": parse("f", good)}, is_first=True)
    [kept] = admit(standing, {"f": parse("f", bad)}).served()
    assert isinstance(kept, ServiceEntry) and kept.ports
    first = admit(NOTHING, {"f": parse("f", bad)}, is_first=True)
    [closed] = first.served()
    assert isinstance(closed, ServiceEntry) and closed.ports == () and closed.addresses
    assert [r.outcome for r in first.refused] == [Outcome.CLOSED]


def test_an_object_for_another_revision_is_left_out_and_said() -> None:
    read = parse(
        "f",
        entry("resolution: NONE").replace("namespace: demo", "namespace: demo, labels: {istio.io/rev: x}"),
    )
    assert not read.objects and read.remarks[0].weight is Weight.INEFFECTIVE


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70000)
    | st.sampled_from(["", "x", "10.0.0.1", "10.0.0.0/8", "::1", "*.a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "port", "from"]), inner)
    ),
    max_leaves=6,
)
READ = ("EndpointSlice", "WorkloadEntry", "ServiceEntry", "Gateway", "GatewayClass")
PATHS = [
    (key, field)
    for key, kind in KINDS.items()
    if key[1] in READ
    for field in kind.schema
    if field not in ("apiVersion", "kind", "metadata")
]


@given(st.sampled_from(PATHS), VALUES, st.booleans(), st.data())
def test_any_value_in_any_field_is_read_or_refused_and_nothing_else(
    place: tuple[tuple[str, str], str], value: object, stored: bool, data: st.DataObject
) -> None:
    (group, kind), field = place
    schema = KINDS[group, kind].schema[field]
    if schema and data.draw(st.booleans()):
        value = {data.draw(st.sampled_from(sorted(schema))): value}
    labels = {"kubernetes.io/service-name": "s"}
    document = {
        "apiVersion": f"{group}/v1",
        "kind": kind,
        "metadata": {"name": "n", "namespace": "demo", "labels": labels},
        field: value,
    }
    read: Manifest = parse("f", yaml.safe_dump(document), stored)
    assert len(read.objects) + len(read.refused) == 1
    for made in read.objects:
        assert dataclasses.replace(made) == made
