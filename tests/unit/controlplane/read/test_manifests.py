"""Manifests: what is filled in for bare ones, what stored ones keep, and that each refusal names its place."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import AuthorizationPolicy, MeshConfig, PeerAuthentication, Pod, Service
from agent.controlplane.read.remarks import Scope, Weight
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
    manifest = parse("f.yaml", text, stored)
    assert not manifest.refused, [str(error) for error in manifest.refused[0].errors]
    [made] = manifest.objects
    return made


def refused(text: str, stored: bool = False) -> list[str]:
    """Every error of a text, as people read it."""
    return [str(error) for r in parse("f.yaml", text, stored).refused for error in r.errors]


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
    [remark] = manifest.remarks
    assert str(remark) == "x.yaml:6 (document 2): kind Deployment (apps/v1) is not used and was left out"
    assert remark.weight is Weight.NOTE


def policy(rules: str) -> str:
    return deny("p", rules=rules).replace("---\n", "")


def peer(spec: str, metadata: str = "{name: p, namespace: demo}", root: str = "") -> str:
    return (
        f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {metadata}\n"
        f"spec: {spec}\n{root}"
    )


MESH = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n"


def mesh(*lines: str) -> str:
    return MESH + "".join(f"    {line}\n" for line in lines)


NOBODYS = ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255")
FOR_NOBODY = [
    *(
        (f"[{{from: [{{source: {{{field}: ['{value}']}}}}]}}]", f"{field}[0]: {said}")
        for field, said, values in (
            (
                "principals",
                "nobody can be",
                (
                    "web",
                    "cluster.local/sa/web",
                    "cluster.local/ns/demo/serviceaccount/web",
                    "cluster.local/ns/demo/sa/web/x",
                    "cluster.local/ns/demo/sa/",
                    "cluster.local/ns/Demo/sa/web",
                    "cluster.local/ns/demo/sa/web ",
                    "cluster.local/demo*",
                    "cluster.local/ns//*",
                    "*/serviceaccount/web",
                    "*/",
                ),
            ),
            ("notPrincipals", "nobody can be", ("cluster.local/sa/web",)),
            ("namespaces", "no namespace is called", ("Demo", "demo/", "*.demo", "cluster.local/ns/demo")),
            ("serviceAccounts", "no account is called", ("Demo/web", "demo/ web")),
        )
        for value in values
    ),
    ("[{when: [{key: source.principal, values: [web]}]}]", "values[0]: nobody can be 'web'"),
    ("[{to: [{operation: {ports: ['0']}}]}]", "ports[0]: nobody can dial port 0"),
]
ALIASES = policy(
    f"[{{from: &f [{{source: {{namespaces: &n [{', '.join(['a'] * 400)}]}}}}, "
    + ", ".join(["{source: {namespaces: *n}}"] * 400)
    + "]}]"
)
NESTED_ALIASES = "x0: &a0 [[[[[[[[[[a]]]]]]]]]]\n" + "".join(
    f"x{i}: &a{i} [[[[[[[[[[*a{i - 1}]]]]]]]]]]\n" for i in range(1, 7)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((policy(rules), said) for rules, said in FOR_NOBODY),
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
        (BARE + "spec: {}\n", "f.yaml:6: document 1, spec: the key is given twice"),
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
        (
            SERVICE.replace("80}", "80, targetPort: '8080'}"),
            "'8080' is not the name of a port; write a number",
        ),
        (SERVICE.replace("80}", "80}, {port: 80}"), "ports[1].port: TCP port 80 is given twice"),
        (
            SERVICE.replace("{port: 80}", "{port: 80, name: a}, {port: 81, name: a}"),
            "spec.ports[1].name: the name 'a' is given twice",
        ),
        # Policies that would do something else than they say.
        (
            policy("[{from: []}]"),
            "f.yaml:4: document 1, spec.rules[0].from: the list is empty: fill it, or leave",
        ),
        (policy("[{from: [{source: {}}]}]"), "spec.rules[0].from[0].source: it says nothing"),
        (policy("[{from: [{}]}]"), "spec.rules[0].from[0].source: it says nothing"),
        (policy("[{from: [{source: {namespaces: []}}]}]"), "source.namespaces: the list is empty"),
        (policy("[{to: [{operation: {ports: []}}]}]"), "operation.ports: the list is empty"),
        (policy("[{from: }]"), "spec.rules[0].from: it has no value: fill it, or leave the field out"),
        (policy("[null]"), "spec.rules[0]: an entry without content; a rule for everybody is {}"),
        (
            policy("[]"),
            "f.yaml:4: document 1, spec.rules: a policy with action DENY and no rules does nothing",
        ),
        (deny("p", selector="app: "), "spec.selector.matchLabels.app: it is missing"),
        (
            policy("[{}]").replace(", namespace: demo", ""),
            "f.yaml:3: document 1, metadata.namespace: it is missing",
        ),
        (
            peer("{}", "{name: p}"),
            "f.yaml:3: document 1, metadata.namespace: it is missing: write which namespace",
        ),
        (peer("{portLevelMtls: {8080: {mode: STRICT}}}"), "modes of ports have no effect without a selector"),
        (
            peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}"),
            "'http' is not a port",
        ),
        (
            policy("[{from: [{source: {ipBlocks: ['::ffff:10.0.0.0/90']}}]}]"),
            "is IPv4 and more: write the IPv4 range and the IPv6 range apart",
        ),
        (
            peer("{}").replace(
                "namespace: demo", "namespace: demo, creationTimestamp: '0001-01-01T00:00:00+14:00'"
            ),
            "'0001-01-01T00:00:00+14:00' is not a time",
        ),
        (
            peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: }}"),
            "spec.portLevelMtls.80: it has no value",
        ),
        (peer("{}", "{name: p, namespace: a.b}"), "metadata.namespace: 'a.b' is not a name here"),
        (peer("{}", "{name: p..q, namespace: demo}"), "metadata.name: 'p..q' is not a name"),
        (
            policy("[{}]").replace("{name: p", "{annotations: {istio.io/dry-run: 'True'}, name: p"),
            '\'True\' is neither "true" nor "false": it would be enforced',
        ),
        (policy("[{}]").replace("action:", "targetRefs: [], action:"), "spec.targetRefs: the list is empty"),
        (
            policy("[{}]").replace("action:", "targetRef: {kind: Service}, action:"),
            "spec.targetRef.name: it is",
        ),
        (policy("[{}]").replace("DENY", "!secret DENY"), "action: the tag !secret is not understood"),
        (policy("[{}]").replace("DENY", "!!binary REVOWQ=="), "binary is not understood"),
        (SERVICE.replace("name: web", "name: web.db"), "metadata.name: 'web.db' is not a name here"),
        (SERVICE.replace("v1", "v2", 1), "f.yaml:1: document 1, apiVersion: there is no kind Service in v2"),
        (BARE.replace("Pod", "pod", 1), "kind: there is no kind pod in v1; did you mean Pod of v1?"),
        (
            SERVICE.replace("{sel", "{internalTrafficPolicy: local, sel"),
            "'local' is not one of Cluster, Local",
        ),
        (SERVICE.replace("{sel", "{trafficDistribution: Close, sel"), "'Close' is not one of PreferClose"),
        *((BARE.replace("10.0.0.1", ip), f"podIPs[0].ip: {ip} is nobody's") for ip in NOBODYS),
        (mesh("a: b").replace("  mesh:", "  msh:"), "data.mesh: it is missing"),
        (
            "apiVersion: v1\nkind: List\nitem: []\n",
            "f.yaml:3: document 1, item: unknown field; did you mean items?",
        ),
        ("apiVersion: v1\nkind: List\nitems:\n", "items: it is missing"),
        ("apiVersion: v1\nkind: lists\nitems: []\n", "kind: there is no kind lists; did you mean List?"),
        (ALIASES, "aliases make more than 100000 copies"),
        (NESTED_ALIASES, "nested deeper than 64 levels"),
        (
            peer("{}").replace("namespace: demo", "namespace: demo, creationTimestamp: soon"),
            "metadata.creationTimestamp: 'soon' is not a time",
        ),
    ],
)
def test_refusals_name_file_line_document_and_field(text: str, said: str) -> None:
    assert said in refused(text)[0]
    [refusal] = parse("f.yaml", text).refused
    assert refusal.errors[0].line > 0 and refusal.errors[0].document > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            peer("{}", root="mtls: {mode: STRICT}"),
            "f.yaml:5: document 1, mtls: unknown field; did you mean spec.mtls?",
        ),
        (
            peer("{mtls: {mode: STRICT}}", "{name: p, namepsace: demo}"),
            "f.yaml:3: document 1, metadata.namepsace: unknown field; did you mean metadata.namespace?",
        ),
        (
            peer("\n  mtls:\n    mod: STRICT"),
            "f.yaml:6: document 1, spec.mtls.mod: unknown field; did you mean spec.mtls.mode?",
        ),
        (
            peer("{selecter: {matchLabels: {a: b}}}"),
            "spec.selecter: unknown field; did you mean spec.selector?",
        ),
        (peer("{mode: STRICT}"), "spec.mode: unknown field; did you mean spec.mtls.mode?"),
        (
            deny("p").replace("spec: {", "action: DENY\nspec: {"),
            "f.yaml:5: document 1, action: unknown field; did you mean spec.action?",
        ),
        (
            policy("[{from: [{source: {Namespaces: [a]}}]}]"),
            "did you mean spec.rules[0].from[0].source.namespaces?",
        ),
        (policy("[{principals: [a]}]"), "did you mean spec.rules.from.source.principals?"),
        (
            policy("[{from: [{source: {namespace: [a]}}]}]"),
            "did you mean spec.rules[0].from[0].source.namespaces?",
        ),
        (
            policy("[{}]").replace("spec: {", "spec: {colour: red, "),
            "spec.colour: unknown field; spec takes action, sel",
        ),
    ],
)
def test_an_unknown_field_of_a_policy_is_refused_with_what_was_meant(text: str, said: str) -> None:
    assert any(said in error for error in refused(text)), refused(text)
    assert not parse("f.yaml", text).objects
    assert refused(text.replace("metadata: {", "metadata: {resourceVersion: '7', ")), "stored ones too"


def test_every_unknown_field_is_named() -> None:
    text = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d, namespace: shop}\n"
    )
    errors = refused(text + "action: DENY\nrules:\n- from: [{source: {namespaces: [evil]}}]\n")
    assert [error.partition(": unknown")[0] for error in errors] == [
        "f.yaml:4: document 1, action",
        "f.yaml:5: document 1, rules",
    ]


def test_an_unknown_field_of_another_kind_is_a_remark_and_heavier_if_it_is_like_one() -> None:
    text = SERVICE.replace("{selector", "{selecter").replace("80}", "80, targetport: 8080, whatsoever: 1}")
    manifest = parse("f.yaml", text)
    assert len(manifest.objects) == 1 and not manifest.refused
    assert [(r.field, r.weight) for r in manifest.remarks] == [
        ("spec.selecter", Weight.INEFFECTIVE),
        ("spec.ports[0].targetport", Weight.INEFFECTIVE),
        ("spec.ports[0].whatsoever", Weight.NOTE),
    ]
    assert "did you mean spec.ports[0].targetPort?" in str(manifest.remarks[1])


def test_what_was_meant_is_said_beside_what_is_missing() -> None:
    text = BARE.replace("podIPs", "podIPz")
    assert "status.podIPs: it is missing" in refused(text)[0]
    [remark] = parse("f.yaml", text).remarks
    assert "status.podIPz: unknown field; did you mean status.podIP?" in str(remark)
    assert remark.scope == Scope(node="node-a")


def test_the_fields_that_kubernetes_has_are_known() -> None:
    text = BARE.replace(
        "{nodeName", "{tolerations: [], hostUsers: false, volumes: [{name: v, emptyDir: {}}], nodeName"
    )
    text = text.replace(
        "ports: [", "env: [{name: A, value: b}], livenessProbe: {tcpSocket: {port: 80}}, ports: ["
    )
    assert parse("f.yaml", text).remarks == ()


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("security.istio.io/v1", "AuthorisationPolicy"),
        ("security.istio.io/v1", "authorizationpolicy"),
        ("security.istio.io/v1", "PeerAuthentification"),
        ("security.istio.io/v1alpha9", "AuthorizationPolicy"),
        ("v1", "PeerAuthentication"),
    ],
)
def test_what_is_like_a_policy_is_refused_and_not_left_out(version: str, kind: str) -> None:
    [refusal] = parse(
        "f.yaml", f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: d, namespace: shop}}\n"
    ).refused
    assert "did you mean" in str(refusal.errors[0]) and "security.istio.io/v1?" in str(refusal.errors[0])
    assert refusal.stand_in is not None and refusal.stand_in.meta.namespace == "shop"


@pytest.mark.parametrize("kind", ["RequestAuthentication", "Gateway"])
def test_other_kinds_of_istio_are_left_out(kind: str) -> None:
    manifest = parse("f.yaml", f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: d}}\n")
    assert not manifest.refused and "was left out" in str(manifest.remarks[0])
    assert manifest.remarks[0].weight is Weight.INEFFECTIVE, "it may guard something elsewhere"


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
