"""Manifests: what is filled in for bare ones, what stored ones keep, and that each refusal names its place."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import AuthorizationPolicy, MeshConfig, PeerAuthentication
from agent.controlplane.read.remarks import Weight
from agent.lab.blueprint import QUICKSTART
from tests.support.manifest_texts import BARE, SERVICE, mesh, one, peer, policy, refused


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


def test_an_account_by_the_name_of_old_is_the_pods_as_with_an_api_server() -> None:
    for said, account in (
        ("serviceAccount: db", "db"),
        ("serviceAccountName: '', serviceAccount: db", "db"),
        ("serviceAccountName: web, serviceAccount: db", "web"),
    ):
        assert one(BARE.replace("nodeName", f"{said}, nodeName")).service_account == account


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
    manifest = parse(
        "x.yaml", SERVICE + "---\napiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: d}\n"
    )
    assert len(manifest.objects) == 1
    [remark] = manifest.remarks
    assert (
        str(remark)
        == "x.yaml:6 (document 2): kind Lease (coordination.k8s.io/v1) is not used and was left out"
    )
    assert remark.weight is Weight.NOTE


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("networking.istio.io/v1", "VirtualService"),
        ("networking.istio.io/v1beta1", "DestinationRule"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("security.istio.io/v1", "RequestAuthentication"),
    ],
)
def test_who_writes_what_a_waypoint_does_is_told_whose_it_is(api_version: str, kind: str) -> None:
    text = f"apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: web, namespace: demo}}\nspec: {{}}\n"
    (remark,) = parse("x.yaml", text).remarks
    assert remark.problem == (
        f"kind {kind} ({api_version}) is not used and was left out:"
        " waypoints and gateways do what it says, and none is configured from here"
    )


@pytest.mark.parametrize(
    "name",
    [
        "cluster.local/ns/d*",
        "cluster.local/n*",
        "cluster.local/ns/demo/s*",
        "*a/web",
        "*s/demo/sa/web",
        "*eb",
    ],
)
def test_a_pattern_that_somebody_may_match_is_taken(name: str) -> None:
    assert not refused(policy(f"[{{from: [{{source: {{principals: ['{name}']}}}}]}}]"))


def test_aliases_in_measure_are_understood() -> None:
    made = one(
        policy("[{from: &f [{source: {namespaces: [a]}}]}, {from: *f, to: [{operation: {ports: ['80']}}]}]")
    )
    assert isinstance(made, AuthorizationPolicy) and made.rules[0].sources == made.rules[1].sources


MERGING = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: d, namespace: demo}
spec:
  action: DENY
  rules:
  - from:
    - source: &evil {namespaces: [evil], ipBlocks: [10.0.0.0/8]}
  - from:
    - source:
        <<: [*evil, {notNamespaces: [good], ipBlocks: [10.1.0.0/16]}]
        namespaces: [worse]
"""


def test_merge_keys_are_what_they_stand_for_as_with_kubectl() -> None:
    made, written_out = (
        one(MERGING),
        one(
            policy(
                "[{from: [{source: {namespaces: [evil], ipBlocks: [10.0.0.0/8]}}]},"
                " {from: [{source: {namespaces: [worse], ipBlocks: [10.0.0.0/8], notNamespaces: [good]}}]}]"
            )
        ),
    )
    assert isinstance(made, AuthorizationPolicy) and isinstance(written_out, AuthorizationPolicy)
    assert made.rules == written_out.rules


def test_lists_may_stand_in_lists_and_what_else_they_say_is_named() -> None:
    inner = "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: a}}]}"
    manifest = parse("f.yaml", f"apiVersion: v1\nkind: List\nlables: {{}}\nitems: [{inner}]\n")
    assert [str(o.meta) for o in manifest.objects] == ["Namespace a"]
    assert "lables: unknown field" in str(manifest.remarks[0])


def test_json_may_write_a_character_as_two_escapes() -> None:
    """As Python's `json.dumps` does; a backslash that is itself escaped begins none."""
    text = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "annotations": {"s": "%s"}}}'
    made = one(text % r"\ud83d\ude00 \\ud83d")
    assert dict(made.meta.annotations) == {"s": "\U0001f600 \\ud83d"}


def test_a_document_that_is_not_yaml_leaves_its_neighbours_alone() -> None:
    manifest = parse(
        "f.yaml",
        BARE + "---\na: [1\nb: 2\n---\n" + SERVICE + "---\nx: }\n---\n" + SERVICE.replace("web", "db"),
    )
    assert [str(o.meta) for o in manifest.objects] == [
        "Pod default/web",
        "Service default/web",
        "Service default/db",
    ]
    assert [(r.place.line, r.place.document, r.kind) for r in manifest.refused] == [(8, 2, ""), (15, 4, "")]
    assert manifest.objects[2].meta.place.line == 17


def test_a_key_given_twice_is_told_of_the_item_that_has_it() -> None:
    item = "- {apiVersion: v1, kind: Namespace, metadata: {name: %s}}\n"
    listed = (
        "apiVersion: v1\nkind: List\nitems:\n"
        + item % "a"
        + (item % "b").replace("}}", ", name: c}}")
        + item % "d"
    )
    manifest = parse("f.yaml", listed)
    assert [o.meta.name for o in manifest.objects] == ["a", "d"]
    [refusal] = manifest.refused
    assert str(refusal.errors[0]) == "f.yaml:5: document 1, name: the key is given twice"
    assert refusal.key is None, "which of the two names it is, nobody knows"


def test_the_items_of_a_raw_list_take_their_kind_from_it() -> None:
    """What `kubectl get --raw` and the API answer: items without apiVersion and kind."""
    pods = parse(
        "pods.json",
        '{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": ['
        '{"metadata": {"name": "a", "namespace": "x", "resourceVersion": "7"}, "spec": {"nodeName": "n"},'
        ' "status": {"phase": "Running", "podIP": "10.0.0.1"}}, {"metadata": {"name": 5}}]}',
    )
    assert [str(o.meta) for o in pods.objects] == ["Pod x/a"] and not pods.objects[0].ready
    assert [r.kind for r in pods.refused] == ["Pod"] and "items[1].metadata.name" in str(
        pods.refused[0].errors[0]
    )
    policies = "kind: AuthorizationPolicyList\napiVersion: security.istio.io/v1\nitems:\n"
    policies += "- metadata: {name: a, namespace: x}\n"
    assert [str(o.meta) for o in parse("f.yaml", policies).objects] == ["AuthorizationPolicy x/a"]


def test_what_an_api_server_let_pass_is_taken_as_it_stands_and_doubted() -> None:
    policy_ = one(policy("[]").replace("name: p", "name: p, resourceVersion: '7'"))
    assert isinstance(policy_, AuthorizationPolicy) and policy_.rules == ()
    assert "a policy with action DENY and no rules does nothing" in policy_.doubts[0]


def test_modes_of_ports_are_read() -> None:
    made = one(peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {8080: {mode: STRICT}, '81': {}}}"))
    assert isinstance(made, PeerAuthentication) and dict(made.ports) == {8080: "STRICT", 81: "UNSET"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("::ffff:10.1.0.0/112", ("10.1.0.0", 16)),
        ("::ffff:10.1.2.3", ("10.1.2.3", 32)),
        ("::ffff:10.1.2.3/128", ("10.1.2.3", 32)),
        ("10.1.2.3/16", ("10.1.2.3", 16)),
        ("fd00::1/64", ("fd00::1", 64)),
    ],
)
def test_ranges_keep_their_host_bits_and_ipv4_is_ipv4(written: str, meant: tuple[str, int]) -> None:
    made = one(policy(f"[{{from: [{{source: {{ipBlocks: ['{written}']}}}}]}}]"))
    assert isinstance(made, AuthorizationPolicy)
    [(ip, length)] = made.rules[0].sources[0].ranges["source_ips"]
    assert (str(ip), length) == meant


def test_the_mesh_config_is_read_and_its_other_fields_remembered() -> None:
    made = one(
        mesh(
            "trustDomain: td.example",
            "trustDomainAliases: [old.example]",
            "rootNamespace: mesh-root",
            "discoverySelectors: [{matchLabels: {a: b}}, {matchExpressions: [{key: c, operator: Exists}]}]",
            "defaultConfig: {concurrency: 2}",
        )
        + "  meshNetworks: 'networks: {}'\n"
    )
    assert isinstance(made, MeshConfig)
    assert (made.trust_domain, made.trust_domain_aliases) == ("td.example", ("old.example",))
    assert made.root_namespace == "mesh-root" and len(made.discovery_selectors) == 2
    assert made.unused == ("data.meshNetworks", "defaultConfig")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("discoverySelectors: [{matchLables: {a: b}}]", "discoverySelectors[0].matchLables unknown field"),
        (
            "discoverySelectors: [{matchExpressions: [{key: c, operator: Inn, values: [a]}]}]",
            "'Inn' is not one of",
        ),
        ("discoverySelectors: [{matchExpressions: [{key: c, operator: In}]}]", "In takes values"),
        ("trustDomain: [a]", "trustDomain it must be text"),
        ("[", "not YAML"),
    ],
)
def test_a_mesh_config_that_cannot_be_used_says_why(line: str, said: str) -> None:
    [error] = refused(mesh(line))
    assert "f.yaml:5: document 1, data.mesh: the mesh config cannot be used" in error and said in error


def test_the_quickstart_is_served_as_its_readme_says() -> None:
    directory = QUICKSTART
    read = {p.name: parse(p.name, p.read_text()) for p in sorted(directory.glob("*.yaml"))}
    standing = admit(NOTHING, read)
    assert not standing.errors and not standing.remarks
    inventory = collect(standing.served())
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
