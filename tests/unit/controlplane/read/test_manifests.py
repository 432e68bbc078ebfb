"""Manifests: what is filled in for bare ones, what stored ones keep, and that each error names its place."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.controlplane.read.inventory import admit, collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import Pod, Service
from agent.controlplane.read.yaml_tree import ManifestError
from agent.lab.blueprint import QUICKSTART
from tests.support.controlplane import deny

BARE = """apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
"""
SERVICE = """apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


def one(text: str, stored: bool = False) -> Pod | Service:
    [made] = parse("f.yaml", text, stored).objects
    return made


def test_a_bare_pod_gets_what_the_api_server_and_the_kubelet_would_write() -> None:
    pod = one(BARE)
    assert (pod.meta.namespace, pod.service_account, pod.phase, pod.ready) == (
        "default",
        "default",
        "Running",
        True,
    )
    assert pod.ips == (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert [(p.name, p.protocol, p.number) for p in pod.ports] == [("http", "TCP", 80)]


def test_conditions_that_are_written_count() -> None:
    text = BARE.replace("{podIPs", "{conditions: [{type: Ready, status: 'False'}], podIPs")
    assert one(text).ready is False


def test_a_stored_pod_keeps_what_it_says() -> None:
    text = BARE.replace("{name: web}", "{name: web, resourceVersion: '7'}")
    pod = one(text)
    assert (pod.ready, pod.service_account, pod.ports[0].protocol) == (False, "", "")
    assert one(text.replace('podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]', "phase: Pending")).ips == ()


def test_a_bare_service_gets_ports_and_asks_for_an_address() -> None:
    service = one(SERVICE)
    assert service.cluster_ips is None
    assert (service.ports[0].target, service.ports[0].protocol) == (80, "TCP")
    given = one(SERVICE.replace("{selector", "{clusterIPs: [10.1.0.1, 'fd00::1'], selector"))
    assert given.families == ("IPv4", "IPv6")
    assert one(SERVICE.replace("{selector", "{clusterIP: None, selector")).cluster_ips == ()


def test_lists_json_and_several_documents_are_read() -> None:
    item = '{"apiVersion": "v1", "kind": "Namespace",\n\t"metadata": {"name": "a"}}'
    listed = f'{{"apiVersion": "v1", "kind": "List", "items": [{item}]}}'
    assert [str(o.meta) for o in parse("f.json", listed).objects] == ["Namespace a"]
    assert len(parse("f.yaml", BARE + "---\n---\n# nothing\n---\n" + SERVICE).objects) == 2


def test_unknown_kinds_are_left_out_with_a_warning_that_names_file_and_kind() -> None:
    manifest = parse("x.yaml", SERVICE + "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n")
    assert len(manifest.objects) == 1
    assert manifest.warnings == (
        "x.yaml:6 (document 2): kind Deployment (apps/v1) is not used and was left out",
    )


def policy(rules: str) -> str:
    return deny("p", rules=rules).replace("---\n", "")


PORT_LEVEL = (
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p},\n"
    " spec: {portLevelMtls: {8080: {mode: STRICT}}}}"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BARE.replace("podIPs", "podIP_"), "f.yaml:5: document 1, status.podIPs: it is missing"),
        (BARE.replace("nodeName", "node"), "f.yaml:4: document 1, spec.nodeName: it is missing"),
        (
            SERVICE + "---\n" + BARE.replace("10.0.0.1", "10.0.0.256"),
            "f.yaml:10: document 2, status.podIPs[0].ip:",
        ),
        (BARE.replace('"fd00::1"', "10.0.0.1"), "status.podIPs: the same address stands here twice"),
        (BARE.replace("name: web", "name: We/b"), "metadata.name: 'We/b' is not a name"),
        (BARE.replace("name: web", "name: 7"), 'metadata.name: it must be text: put it in quotes ("7")'),
        (BARE.replace("80", "99999"), "ports[0].containerPort: it must be a whole number from 1 to 65535"),
        (BARE + "spec: {}\n", "f.yaml:6: document 1: the key 'spec' is given twice"),
        ("kind: Pod\n", "f.yaml:1: document 1, apiVersion: it is missing"),
        ("- a\n", "f.yaml:1: document 1: it must be a mapping"),
        ("a: [1\nb: 2\n", "f.yaml:2: document 1: not YAML"),
        ("a: &x [*x]\n", "f.yaml:1: document 1: *x refers to itself"),
        ("[" * 100, "f.yaml:1: document 1: nested deeper than 64 levels"),
        ("a: \x00", "f.yaml:1: document 1: a character that is no text"),
        (
            policy("[{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]"),
            "spec.rules[0].from[0].source.ipBlocks[0]: ",
        ),
        (
            policy("[{from: [{source: {ipBlocks: [nonsense]}}]}]"),
            "'nonsense' is not an IP address or network",
        ),
        (policy("[{to: [{operation: {ports: ['70000']}}]}]"), "operation.ports[0]: '70000' is not a port"),
        (policy("[{to: [{operation: {ports: [80]}}]}]"), 'it must be text: put it in quotes ("80")'),
        (policy("[{form: [{source: {}}]}]"), "spec.rules[0].form: unknown field"),
        (policy("[{from: [{source: {principal: [a]}}]}]"), "from[0].source.principal: unknown field"),
        (
            policy("[{from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]}]"),
            "write principals without spiffe",
        ),
        (policy("[{from: [{source: {principals: ['a*b']}}]}]"), "'a*b' is not a pattern"),
        (policy("[{from: [{source: {serviceAccounts: ['a/*']}}]}]"), "'a/*' is not a service account"),
        (policy("[{when: [{key: source.ip}]}]"), "has neither values nor notValues"),
        (policy("[{when: [{key: source.host, values: [a]}]}]"), "'source.host' is not an attribute"),
        (deny("p", action="REFUSE"), "spec.action: 'REFUSE' is not one of ALLOW, DENY, AUDIT, CUSTOM"),
        (deny("p", selector="a: b").replace("matchLabels", "labels"), "spec.selector.labels: unknown field"),
        (deny("p", selector="a: b*"), "stars do not work here"),
        (PORT_LEVEL, "f.yaml:2: document 1, spec.portLevelMtls: modes of single ports are not supported yet"),
    ],
)
def test_errors_name_file_line_document_and_field(text: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse("f.yaml", text)
    assert said in str(caught.value)
    assert caught.value.line > 0 and caught.value.document > 0


def files(**texts: str) -> dict:
    return {f"{name}.yaml": parse(f"{name}.yaml", text) for name, text in texts.items()}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (
            BARE.replace("10.0.0.1", "10.0.0.2").replace("fd00::1", "fd00::2"),
            "Pod default/web: the name is already that of",
        ),
        (
            BARE.replace("name: web", "name: db"),
            "Pod default/db: address 10.0.0.1 is already that of Pod default/web",
        ),
        (
            SERVICE.replace("{selector", "{clusterIP: 'fd00::1', selector"),
            "Service default/web: address fd00::1 is",
        ),
    ],
)
def test_duplicates_name_both_places_and_the_newer_file_is_refused(second: str, said: str) -> None:
    good = files(b=BARE)
    admission = admit(good, files(a=second))
    assert dict(admission.served) == good
    error = admission.errors["a.yaml"]
    assert said in str(error) and str(error).startswith("a.yaml:1") and "b.yaml:1 (document 1)" in str(error)


def test_an_object_may_move_to_another_file() -> None:
    good = files(a=BARE)
    admission = admit(good, {**files(b=BARE), "a.yaml": None})
    assert not admission.errors and list(admission.served) == ["b.yaml"]
    both = admit(good, files(b=BARE, a=SERVICE))
    assert not both.errors and len(both.served) == 2


def test_a_duplicate_in_one_file_keeps_that_files_last_version() -> None:
    good = files(a=BARE, b=SERVICE)
    admission = admit(good, files(a=BARE + "---\n" + BARE, b=SERVICE.replace("80", "81")))
    assert list(admission.errors) == ["a.yaml"]
    assert admission.served["a.yaml"] == good["a.yaml"]
    assert collect(admission.served).services[0].ports[0].port == 81


def test_pods_on_the_host_network_share_an_address() -> None:
    host = BARE.replace("{nodeName", "{hostNetwork: true, nodeName")
    assert not admit({}, files(a=host, b=host.replace("name: web", "name: db"))).errors


def test_the_quickstart_is_served_as_its_readme_says() -> None:
    directory = QUICKSTART
    read = {p.name: parse(p.name, p.read_text()) for p in sorted(directory.glob("*.yaml"))}
    admission = admit({}, read)
    assert not admission.errors and not any(m.warnings for m in read.values())
    inventory = collect(admission.served)
    assert sorted(inventory.nodes) == ["node-a", "node-b"]
    assert sorted((p.meta.name, p.node, p.service_account, *map(str, p.ips)) for p in inventory.pods) == [
        ("client-a", "node-a", "client", "10.77.1.11", "fd77:1::11"),
        ("client-b", "node-b", "client", "10.77.2.11", "fd77:2::11"),
        ("server-a", "node-a", "server", "10.77.1.12", "fd77:1::12"),
        ("server-b", "node-b", "server", "10.77.2.12", "fd77:2::12"),
    ]
    [service] = inventory.services
    assert list(map(str, service.cluster_ips)) == ["10.96.77.10", "fd77:96::10"]
    assert (service.ports[0].port, service.ports[0].target) == (80, 8080)
