"""What of a manifest is refused or doubted, each with file, line, document and field."""

from __future__ import annotations

import pytest

from agent.controlplane.read.manifests import parse
from agent.controlplane.read.remarks import Scope, Weight
from tests.support.controlplane import deny
from tests.support.manifest_texts import BARE, SERVICE, mesh, peer, policy, refused

NAMED = "apiVersion: v1\nkind: Namespace\nmetadata: &a {name: a}\n"
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
        (
            BARE.replace("{podIPs", "{conditions: [{type: Ready, status: 'true'}], podIPs"),
            "status.conditions[0].status: 'true' is not one of True, False, Unknown",
        ),
        (
            BARE.replace("{podIPs", "{conditions: [{type: ready, status: 'True'}], podIPs"),
            "status.conditions[0].type: 'ready' is no condition of pods; did you mean Ready?",
        ),
        (BARE.replace("nodeName", "node"), "f.yaml:4: document 1, spec.nodeName: it is missing"),
        (
            SERVICE + "---\n" + BARE.replace("10.0.0.1", "10.0.0.256"),
            "f.yaml:10: document 2, status.podIPs[0].ip:",
        ),
        (BARE.replace('"fd00::1"', "10.0.0.1"), "status.podIPs: the same address stands here twice"),
        (BARE.replace("name: web", "name: We/b"), "metadata.name: 'We/b' is not a name"),
        (
            BARE.replace("name: web", "name: {{ .Release.Name }}"),
            "it is a template: write what it renders to",
        ),
        (BARE.replace("name: web", "name: 7"), 'metadata.name: it must be text: put it in quotes ("7")'),
        (BARE.replace("80", "99999"), "ports[0].containerPort: it must be a whole number from 1 to 65535"),
        (
            SERVICE.replace("80}", "0100}"),
            "port: it must be a whole number from 1 to 65535, without a zero before",
        ),
        (
            BARE.replace("{podIPs", "{podIP: 10.0.0.7, podIPs"),
            "status.podIP: it is 10.0.0.7, and the first of podIPs is 10.0.0.1: write one of them",
        ),
        (
            SERVICE.replace("{selector", "{clusterIP: 10.1.0.1, clusterIPs: [10.1.0.2], selector"),
            "spec.clusterIP: it is '10.1.0.1', and the first of clusterIPs is '10.1.0.2': write one of them",
        ),
        (
            SERVICE.replace("{selector", "{clusterIPs: [None, 10.1.0.2], selector"),
            "spec.clusterIPs: None stands beside an address",
        ),
        (
            SERVICE.replace(
                "{selector", "{clusterIPs: ['fd00::1', 10.1.0.1], ipFamilies: [IPv4, IPv6], selector"
            ),
            "spec.ipFamilies: IPv4 stands in the place of fd00::1, which is IPv6",
        ),
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
        (
            SERVICE.replace("{port: 80}", "{port: 80, name: a}, {port: 81}"),
            "spec.ports[1].name: port 81 has none: each of several ports must be named",
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
        (f"{NAMED}spec: {{<<: a}}\n", "f.yaml:4: document 1, <<: it merges what is no mapping"),
        (f"{NAMED}spec: {{name: b, <<: *a}}\n", "f.yaml:4: document 1, name: it stands above a merge (<<)"),
        (f"{NAMED}spec: {{<<: *a, name: b, name: c}}\n", "document 1, name: the key is given twice"),
        ("kind: Pod\nmetadata:\n\tname: a\n", "f.yaml:3: document 1: not YAML"),
        ("kind: Pod\nmetadata:\n\tname: a\n", "it is indented with a tab: write spaces"),
        ("kind: Pod\nspec:\n  {{- if .Values.x }}\n  a: b\n", "it is a template: write what it renders to"),
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
        (policy("[{principals: [a]}]"), "did you mean spec.rules[0].from.source.principals?"),
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


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("security.istio.io/v1", "RequestAuthentication"),
        ("security.istio.io/v1", "Gateway"),
        ("authentication.istio.io/v1alpha1", "Policy"),
        ("rbac.istio.io/v1alpha1", "ServiceRole"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    ],
)
def test_other_guards_are_left_out(version: str, kind: str) -> None:
    manifest = parse("f.yaml", f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: d}}\n")
    assert not manifest.refused and "was left out" in str(manifest.remarks[0])
    assert manifest.remarks[0].weight is Weight.INEFFECTIVE, "it may guard something elsewhere"
