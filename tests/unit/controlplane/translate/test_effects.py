"""What manifests ask for and nobody does is said, with the pods it concerns; the rest is proven by its effect."""

from __future__ import annotations

import pytest

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.remarks import EVERYBODY, Scope, Weight
from agent.controlplane.translate.effects import remarks
from agent.controlplane.translate.mesh import MeshSettings, mesh_of
from tests.support.controlplane import NAMESPACE, deny, pod
from tests.support.judge import Judge

WEB = pod("web", "node-a", "10.10.0.5")
FAR = pod("far", "node-b", "10.10.0.6", ns="far")


def mesh(*lines: str, ns: str = "istio-system") -> str:
    text = "".join(f"    {line}\n" for line in lines)
    return f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: {ns}}}\ndata:\n  mesh: |\n{text}"


def principals(*names: str, ns: str = "demo", field: str = "principals", action: str = "DENY") -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    return deny("p", rules=f"[{{from: [{{source: {{{field}: [{quoted}]}}}}]}}]", ns=ns, action=action)


def service(ports: str, name: str = "web", ip: str = "10.96.0.10") -> str:
    return (
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n"
        f"spec: {{selector: {{app: web}}, clusterIP: {ip}, ports: [{ports}]}}\n"
    )


# -- the mesh config


def test_the_root_namespace_of_the_mesh_config_is_where_policies_of_the_mesh_stand() -> None:
    everybody = deny("d", ns="mesh-root")
    assert Judge(a=WEB + FAR + everybody).admits("web")
    judge = Judge(a=WEB + FAR + everybody, m=mesh("rootNamespace: mesh-root"))
    assert not judge.admits("web") and not judge.admits("far", namespace="far")
    strict = (
        deny("d", ns="mesh-root").replace("AuthorizationPolicy", "PeerAuthentication").partition("spec")[0]
    )
    judge = Judge(a=WEB + strict + "spec: {mtls: {mode: STRICT}}\n", m=mesh("rootNamespace: mesh-root"))
    assert not judge.admits("web", principal=None) and judge.admits("web")
    assert "mesh-root/istio_converted_static_strict" in judge.served.policies
    judge = Judge(a=WEB + deny("d", ns="istio-system"), m=mesh("rootNamespace: mesh-root"))
    assert judge.admits("web"), "it is a namespace like others then"


def test_a_principal_of_an_alias_is_one_of_the_mesh() -> None:
    config = mesh("trustDomain: new.example", "trustDomainAliases: [old.example]")
    for written in ("old.example", "new.example"):
        judge = Judge(a=WEB + principals(f"{written}/ns/demo/sa/thief"), m=config)
        assert not judge.admits("web", principal="new.example/ns/demo/sa/thief")
        assert not judge.admits("web", principal="old.example/ns/demo/sa/thief")
        assert judge.admits("web", principal="new.example/ns/demo/sa/web") and not judge.without_effect()
    judge = Judge(a=WEB + principals("old.example/ns/*", field="notPrincipals"), m=config)
    assert judge.admits("web", principal="new.example/ns/demo/sa/web"), "it is excepted"


@pytest.mark.parametrize(
    "selector",
    [
        "{matchLabels: {mesh: here}}",
        "{matchExpressions: [{key: mesh, operator: In, values: [here, there]}]}",
        "{matchExpressions: [{key: mesh, operator: Exists}]}",
        "{matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [far]}]}",
        "{matchExpressions: [{key: away, operator: DoesNotExist}]}",
    ],
)
def test_discovery_selectors_choose_the_namespaces_that_count(selector: str) -> None:
    names = NAMESPACE.replace("demo}", "demo, labels: {mesh: here}}")
    away = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: far, labels: {away: x}}\n"
    judge = Judge(
        a=names + away + WEB + FAR + deny("d", ns="far"), m=mesh(f"discoverySelectors: [{selector}]")
    )
    assert list(judge.served.addresses) == ["Kubernetes//Pod/demo/web"] and not judge.served.policies
    [remark] = [r for r in judge.said if r.about == "Namespace far"]
    assert "1 AuthorizationPolicy, 1 Pod not served" in str(remark)
    assert (remark.weight, remark.scope) == (Weight.INEFFECTIVE, Scope("far"))


def test_what_stands_in_for_a_policy_of_nobody_knows_where_counts_everywhere() -> None:
    names = NAMESPACE.replace("demo}", "demo, labels: {mesh: here}}")
    broken = deny("d").replace("namespace", "namepsace")
    judge = Judge(a=names + WEB + broken, m=mesh("discoverySelectors: [{matchLabels: {mesh: here}}]"))
    assert not judge.admits("web")


def test_other_fields_of_the_mesh_config_are_named_once() -> None:
    judge = Judge(a=WEB, m=mesh("defaultConfig: {}", "enableTracing: true", "trustDomain: cluster.local"))
    notes = judge.notes()
    assert [n.partition("no effect here: ")[2] for n in notes] == ["defaultConfig", "enableTracing"]
    assert not judge.without_effect()


def test_a_misspelt_field_of_the_mesh_config_concerns_everybody() -> None:
    judge = Judge(a=WEB, m=mesh("rootNamepsace: x", "trustDomainAlias: [a]", "accessLogFile: y"))
    assert [r.scope for r in judge.said if r.weight is Weight.INEFFECTIVE] == [EVERYBODY, EVERYBODY]
    assert "did you mean rootNamespace?" in judge.without_effect()[0] and len(judge.notes()) == 1


def test_a_mesh_config_elsewhere_does_nothing_and_it_is_said() -> None:
    judge = Judge(a=WEB + deny("d", ns="mesh-root"), m=mesh("rootNamespace: mesh-root", ns="demo"))
    assert judge.admits("web")
    [remark] = [r for r in judge.said if "ConfigMap demo/istio" in r.about]
    assert remark.weight is Weight.INEFFECTIVE and remark.scope == EVERYBODY


# -- policies without effect


@pytest.mark.parametrize(
    "name", ["other.example/ns/demo/sa/web", "cluster.locl/*", "cluster.local.x*", "other*"]
)
@pytest.mark.parametrize("field", ["principals", "notPrincipals"])
def test_a_principal_that_nobody_can_be_is_said(name: str, field: str) -> None:
    judge = Judge(a=WEB + principals(name, field=field))
    [remark] = [r for r in judge.said if r.weight is Weight.INEFFECTIVE]
    assert f"nobody can be '{name}': the trust domain here is cluster.local" in str(remark)
    assert str(remark).startswith(
        "a.yaml:8 (document 2): AuthorizationPolicy demo/p: spec.rules[0].from[0].source: "
    )
    assert remark.scope == Scope("demo")


@pytest.mark.parametrize(
    "name", ["*", "*/ns/demo/sa/web", "cluster.local/*", "cluster*", "cluster.local/ns/a/sa/b"]
)
def test_a_principal_that_somebody_can_be_is_not(name: str) -> None:
    assert not Judge(a=WEB + principals(name)).without_effect()


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (deny("d", action="AUDIT"), "action AUDIT is for waypoints"),
        (deny("d", action="CUSTOM"), "action CUSTOM is for waypoints"),
        (
            deny("d").replace("spec: {", "spec: {targetRef: {kind: Service, name: web}, "),
            "it has a targetRef",
        ),
        (
            deny("d", rules="[{to: [{operation: {methods: [GET]}}]}]"),
            "methods: are of HTTP or TLS, which node proxies do not read; its rules deny without them, so it denies",
        ),
        (
            deny("d").replace("{name: d", "{labels: {istio.io/rev: canary}, name: d"),
            "it is for revision 'canary'",
        ),
        (
            deny("d", rules="[]").replace("{name: d", "{resourceVersion: '7', name: d"),
            "and no rules does nothing",
        ),
        (
            deny("d", rules="[{from: []}]").replace("{name: d", "{resourceVersion: '7', name: d"),
            "spec.rules[0].from: the list is empty",
        ),
    ],
)
def test_what_node_proxies_do_not_do_concerns_the_pods_it_was_meant_for(policy: str, said: str) -> None:
    [remark] = Judge(a=WEB + policy).said
    assert said in str(remark) and remark.weight is Weight.INEFFECTIVE and remark.scope == Scope("demo")


def test_a_dry_run_does_what_it_says() -> None:
    judge = Judge(a=WEB + deny("d").replace("{name: d", "{annotations: {istio.io/dry-run: 'true'}, name: d"))
    assert judge.admits("web") and not judge.without_effect() and len(judge.notes()) == 1


@pytest.mark.parametrize(
    ("policy", "scope"),
    [
        (deny("d", action="AUDIT", selector="app: web"), Scope("demo", {"app": "web"})),
        (deny("d", action="AUDIT", ns="istio-system"), EVERYBODY),
        (deny("d", action="AUDIT", ns="istio-system", selector="app: web"), Scope(None, {"app": "web"})),
        (deny("d").replace("action", "acton"), Scope("demo")),
        (deny("d").replace("namespace", "namepsace"), EVERYBODY),
        (WEB.replace("web", "db").replace("podIPs", "podIPz"), Scope(node="node-a")),
        (service("{port: 80, targetPort: '80'}"), EVERYBODY),
        ("---\na: [\n", EVERYBODY),
    ],
)
def test_whom_a_remark_concerns(policy: str, scope: Scope) -> None:
    judge = Judge(a=WEB + policy)
    assert judge.said and all(remark.scope == scope for remark in judge.said), judge.said


# -- ranges and ports


def test_an_ipv4_range_written_as_ipv6_is_for_ipv4() -> None:
    judge = Judge(a=WEB + deny("d", rules="[{from: [{source: {ipBlocks: ['::ffff:10.99.0.0/112']}}]}]"))
    assert not judge.admits("web", source="10.99.1.1") and judge.admits("web", source="10.98.0.1")


def test_a_udp_port_does_not_take_the_place_of_a_tcp_port() -> None:
    ports = "{name: tcp, port: 53, targetPort: 5353}, {name: udp, port: 53, protocol: UDP, targetPort: 5300}"
    judge = Judge(a=WEB + service(ports) + service("{port: 514, protocol: UDP}", "udp", "10.96.0.11"))
    services = {key.hostname.partition(".")[0]: s for key, s in judge.snapshot.services.items()}
    assert dict(services["web"].ports) == {53: 5353} and dict(services["udp"].ports) == {}
    reached = {
        key.hostname.partition(".")[0]: dict(ports) for key, ports in judge.pod("web").services.items()
    }
    assert reached == {"web": {53: 5353}, "udp": {}}
    assert not judge.without_effect()


def test_a_port_by_a_name_that_pods_do_not_have_is_said() -> None:
    named = WEB.replace(
        "serviceAccountName",
        "containers: [{name: c, ports: [{name: http, containerPort: 80}]}], serviceAccountName",
    )
    others = "".join(pod(f"p{i}", "node-a", f"10.10.1.{i}") for i in range(4))
    judge = Judge(a=named + others + service("{port: 80, targetPort: http}"))
    [remark] = [r for r in judge.said if r.weight is Weight.INEFFECTIVE]
    assert "port 80: 4 of its 5 pods have no TCP port named 'http' (p0, p1, p2 and 1 more)" in str(remark)
    assert remark.scope == Scope("demo", {"app": "web"})
    assert not Judge(a=named + service("{port: 80, targetPort: http}")).without_effect()


def test_a_port_name_that_a_pod_has_twice_is_said_with_the_port_it_means() -> None:
    ports = "ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]"
    more = "ports: [{name: http, containerPort: 81}, {name: dns, containerPort: 54}]"
    containers = f"containers: [{{name: c, {ports}}}, {{name: d, {more}}}], serviceAccountName"
    judge = Judge(a=WEB.replace("serviceAccountName", containers) + service("{port: 90, targetPort: http}"))
    [remark] = [r for r in judge.said if r.weight is Weight.INEFFECTIVE]
    assert "port 90: its only pod has several TCP ports named 'http' (web): it means the first, 80" in str(
        remark
    )
    assert "and never 81; give each" in str(remark) and remark.scope == Scope("demo", {"app": "web"})
    [ports_by_service] = judge.pod("web").services.values()
    assert dict(ports_by_service) == {90: 80}
    same = WEB.replace("serviceAccountName", containers.replace("81", "80"))
    assert not Judge(a=same + service("{port: 90, targetPort: http}")).without_effect()
    twice = WEB.replace("serviceAccountName", containers)
    assert not Judge(a=twice + service("{port: 90, targetPort: dns}")).without_effect(), "one of them is UDP"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            service("{port: 53, protocol: UDP}"),
            "it has no TCP port: ztun serves TCP alone, and UDP port 53 is as",
        ),
        (service(""), "it has no port, so nobody is reached"),
        (service("", ip="None"), ""),
        (service("{port: 53, name: t}"), ""),
        (
            service("{port: 53, protocol: UDP, name: u}, {port: 53, name: t}"),
            "ztun serves TCP alone: UDP port 53 is as without a mesh",
        ),
    ],
)
def test_a_service_without_a_tcp_port_is_noted(made: str, said: str) -> None:
    judge = Judge(a=WEB + made)
    notes = [note for note in judge.notes() if "Service demo/web" in note]
    assert len(notes) == bool(said) and said in "".join(notes) and not judge.without_effect()


PORT_80 = "[{to: [{operation: {ports: ['80']}}]}]"


@pytest.mark.parametrize(
    ("guard", "field", "scope"),
    [
        (deny("p", rules=PORT_80), "spec.rules[0].to[0].operation", Scope("demo")),
        (
            deny("p", rules="[{when: [{key: destination.port, notValues: ['80']}]}]", ns="istio-system"),
            "spec.rules[0].when[0]",
            Scope(None),
        ),
        (
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: demo}\n"
            "spec: {selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: STRICT}}}\n",
            "spec.portLevelMtls.80",
            Scope("demo", {"app": "web"}),
        ),
    ],
)
def test_a_port_of_a_service_at_which_no_connection_arrives_is_said(
    guard: str, field: str, scope: Scope
) -> None:
    at_8080 = service("{port: 80, targetPort: 8080}")
    judge = Judge(a=WEB + at_8080 + guard)
    [remark] = [r for r in judge.said if r.weight is Weight.INEFFECTIVE]
    assert "port 80: that is of Service demo/web, which reaches its pods at 8080; write 8080" in str(remark)
    assert (remark.field, remark.scope) == (field, scope)
    declared = WEB.replace("nodeName", "containers: [{name: c, ports: [{containerPort: 80}]}], nodeName")
    for real in (
        declared + at_8080,
        WEB + service("{port: 80}"),
        WEB + FAR,
        WEB + at_8080 + service("{port: 9, targetPort: 80}", "more", "10.96.0.11"),
    ):
        assert not Judge(a=real + guard).without_effect()


def test_marks_of_istio_that_do_nothing_are_said() -> None:
    labelled = WEB.replace("app: web", "app: web, istio.io/global: w")
    [note] = [n for n in Judge(a=labelled).notes() if "no effect" in n]
    assert "Pod demo/web: no effect here: istio.io/global" in note
    annotated = service("{port: 80}").replace("name: web", "name: web, annotations: {MARK}")
    own = "networking.istio.io/exportTo: '.'"
    assert (
        "no effect here: networking.istio.io/exportTo"
        in Judge(a=WEB + annotated.replace("MARK", own)).notes()[0]
    )
    assert not Judge(a=labelled.replace(": w}", ": none}")).notes()


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ("annotations: {ztun.io/limit: connections=1}", "ztun.io/limit (did you mean ztun.io/limits?)"),
        ("annotations: {ztun.io/honest_connect: 'true'}", "(did you mean ztun.io/honest-connect?)"),
        ("labels: {ztun.io/colour: red}", "ztun.io/colour (there is none such)"),
        ("labels: {ztun.io/limits: a}", "label ztun.io/limits (it is an annotation)"),
        ("annotations: {ztun.io/limits: connections=1}", "ztun.io/limits (pods have it; for several of"),
        (
            "annotations: {ztun.io/honest-connect: 'true'}",
            "ztun.io/honest-connect (pods have it; for all of a",
        ),
        ("labels: {ztun.io/honest-connect: 'true'}", "label ztun.io/honest-connect (it is an annotation)"),
    ],
)
def test_marks_of_ours_that_nobody_reads_are_said(marks: str, said: str) -> None:
    marked = service("{port: 80}").replace("name: web", f"name: web, {marks}")
    [note] = [each for each in Judge(a=WEB + marked).notes() if "no effect" in each]
    assert said in note


@pytest.mark.parametrize(
    ("as_written", "marked", "in_a_cluster"),
    [
        (
            "app: web",
            "app: web, MARK",
            ["no effect here: label ztun.io/honest-connect (it is an annotation)"],
        ),
        ("labels:", "annotations: {MARK}, labels:", []),
    ],
)
def test_how_a_pod_is_taken_in_is_said_once_and_of_a_cluster_where_nobody_reads_it(
    as_written: str, marked: str, in_a_cluster: list[str]
) -> None:
    text = WEB.replace(as_written, marked.replace("MARK", "ztun.io/honest-connect: 'true'"))
    [note] = [each for each in Judge(a=text).notes() if "no effect" in each]
    assert note.count("ztun.io/honest-connect") == 1 and "`ztun enroll` says who is captured" in note
    everything = collect(admit(NOTHING, {"a.yaml": parse("a.yaml", text)}).served())
    said = remarks(everything, mesh_of(everything, MeshSettings(is_of_cluster=True)))
    assert [each.problem for each in said if "honest-connect" in each.problem] == in_a_cluster


def test_limits_of_a_pod_are_no_mark_without_effect() -> None:
    limited = WEB.replace("labels:", "annotations: {ztun.io/limits: connections=1}, labels:")
    assert limited != WEB and not Judge(a=limited).notes()


@pytest.mark.parametrize(
    ("made", "value", "known"),
    [
        (
            WEB.replace("labels", "annotations: {ambient.istio.io/redirection: VALUE}, labels"),
            "enable",
            "enabled",
        ),
        (WEB.replace("app: web", "app: web, networking.istio.io/tunnel: VALUE"), "hbone", "http"),
        (
            service("{port: 80}").replace(
                "name: web", "name: web, annotations: {networking.istio.io/traffic-distribution: VALUE}"
            ),
            "PreferCloze",
            "PreferClose",
        ),
    ],
)
def test_a_mark_with_a_value_that_counts_for_nothing_is_said(made: str, value: str, known: str) -> None:
    others = WEB.replace("name: web", "name: other").replace("10.10.0.5", "10.10.0.9")
    [said] = Judge(a=others + made.replace("VALUE", value)).without_effect()
    assert f"no effect: {value!r} is none of {known}" in said
    assert not Judge(a=others + made.replace("VALUE", known)).without_effect()


# -- what is for nobody, and what says nothing


def peer(spec: str, ns: str = "demo") -> str:
    return (
        f"---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: {ns}}}\n"
        f"spec: {spec}\n"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            deny("d", selector="app: wbe"),
            "no workload of namespace demo has the labels app=wbe, so it is for nobody",
        ),
        (deny("d", selector="app: wbe", ns="istio-system"), "no workload of the mesh has the labels app=wbe"),
        (deny("d", ns="dmeo"), "namespace dmeo has no workloads, so it is for nobody"),
        (peer("{mtls: {mode: STRICT}, selector: {matchLabels: {app: wbe}}}"), "has the labels app=wbe"),
        (peer("{mtls: {mode: STRICT}}", ns="dmeo"), "namespace dmeo has no workloads"),
        (service("{port: 80}").replace("app: web", "app: wbe"), "has the labels app=wbe"),
        (
            service("{port: 80}").replace("{sel", "{sessionAffinity: ClientIP, type: NodePort, sel"),
            "type NodePort, sess",
        ),
    ],
)
def test_what_no_pod_is_found_for_is_noted_and_troubles_no_agent(text: str, said: str) -> None:
    judge = Judge(a=WEB + text)
    [note] = judge.notes()
    assert said in note and not judge.without_effect()


@pytest.mark.parametrize(
    "text", [deny("d", ns="istio-system"), deny("d", ns="istio-system", selector="app: web")]
)
def test_a_policy_of_the_mesh_is_for_the_pods_of_every_namespace(text: str) -> None:
    judge = Judge(a=WEB + text)
    assert not judge.notes() and not judge.admits("web")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (peer("{}"), "it says no mode, so it changes nothing; write one, or delete it"),
        (
            peer("{mtls: {mode: STRICT}, selector: {matchLabels: {app: web}}, portLevelMtls: {80: {}}}"),
            "no mode is said for port 80",
        ),
        (
            peer("{mtls: {mode: STRICT}, selector: {matchLabels: {app: web}}}", ns="istio-system"),
            "its selector finds pods of namespace istio-system alone",
        ),
    ],
)
def test_a_peer_authentication_that_changes_nothing_concerns_those_who_may_rely_on_it(
    text: str, said: str
) -> None:
    judge = Judge(a=WEB + text)
    [remark] = [r for r in judge.said if r.weight is Weight.INEFFECTIVE]
    assert said in str(remark) and remark.scope is not None and remark.scope.namespace in ("demo", None)


def test_a_mode_that_is_another_ones_is_noted() -> None:
    judge = Judge(a=WEB + peer("{mtls: {mode: DISABLE}}"))
    [note] = judge.notes()
    assert "DISABLE takes plaintext as PERMISSIVE does" in note and not judge.without_effect()


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("principals: [cluster.local/ns/demo/sa/wbe]", "no workload has the service account demo/wbe"),
        ("serviceAccounts: [wbe]", "no workload has the service account demo/wbe"),
        ("serviceAccounts: [far/web, dmeo/web]", "no workload has the service account dmeo/web"),
        ("namespaces: [demo, dmeo]", "namespace dmeo has no workloads"),
    ],
)
def test_a_source_that_nobody_has_is_noted(source: str, said: str, action: str) -> None:
    judge = Judge(a=WEB + FAR + deny("d", rules=f"[{{from: [{{source: {{{source}}}}}]}}]", action=action))
    [note] = judge.notes()
    assert (
        f"spec.rules[0].from[0].source: {said}, so it matches nobody" in note and not judge.without_effect()
    )


@pytest.mark.parametrize(
    "source",
    [
        "principals: [cluster.local/ns/demo/sa/web, 'cluster.local/ns/dmeo/*', '*/sa/wbe', '*']",
        "namespaces: [far, 'dm*', '*']",
        "serviceAccounts: [web, far/web]",
        "notPrincipals: [cluster.local/ns/demo/sa/wbe]",
        "notNamespaces: [dmeo]",
    ],
)
def test_a_source_that_somebody_has_or_may_have_is_not(source: str) -> None:
    assert not Judge(a=WEB + FAR + deny("d", rules=f"[{{from: [{{source: {{{source}}}}}]}}]")).notes()


def test_a_policy_that_allows_nobody_says_so() -> None:
    judge = Judge(a=WEB + deny("d", rules="[]", action="ALLOW"))
    [note] = judge.notes()
    assert "it has no rules, so it allows nobody" in note
    assert not judge.admits("web") and not judge.without_effect()
