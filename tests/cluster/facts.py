"""What has to hold in a cluster, in the order in which it is shown. Each fact returns its line, or raises."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import apps
from tests.cluster.kubernetes import Kubernetes, annotation, is_ready, wait
from tests.cluster.machine import plugged_in
from tests.cluster.services import Services
from tests.cluster.traffic import Load, Wire, ask, refused

NAMESPACE = "ztun-system"
ROOT = Path(__file__).parents[2]
LABEL = "istio.io/dataplane-mode"
Pod = dict[str, Any]


@dataclass
class Stage:
    """What the facts share."""

    cluster: Kubernetes
    services: Services
    applied_s: float = 0.0
    before: dict[str, int] = field(default_factory=dict)

    def pod(self, app: str, number: int = 0) -> Pod:
        pods = sorted(self.cluster.pods("demo", app), key=lambda pod: str(pod["metadata"]["name"]))
        return pods[number]

    def uid(self, app: str, number: int = 0) -> str:
        return str(self.pod(app, number)["metadata"]["uid"])

    def ip(self, app: str, number: int = 0) -> str:
        return str(self.pod(app, number)["status"]["podIP"])

    def cluster_ip(self, name: str, namespace: str = "demo") -> str:
        return str(self.cluster.get("service", "-n", namespace, name)["spec"]["clusterIP"])

    def ask(self, client: str, server: str, **more: Any) -> str:
        return ask(self.uid(client), self.ip(server), **more)

    def enrolled(self, *names: str) -> bool:
        pods = [pod for app in names for pod in self.cluster.pods("demo", app)]
        return bool(pods) and all(annotation(pod) == "enabled" for pod in pods)

    def agents(self) -> list[Pod]:
        return self.cluster.pods(NAMESPACE, "")

    def agent(self, node: str) -> str:
        """Name of the agent's pod on a node; empty: there is none."""
        names = [str(pod["metadata"]["name"]) for pod in self.agents() if pod["spec"].get("nodeName") == node]
        return next((name for name in names if name.startswith("ztun-agent")), "")

    def restarts(self, app: str = "") -> int:
        pods = self.cluster.pods("demo", app)
        return sum(
            each["restartCount"] for pod in pods for each in pod["status"].get("containerStatuses") or []
        )

    def ready_pods(self, app: str, count: int) -> bool:
        pods = self.cluster.pods("demo", app)
        return len(pods) == count and all(map(is_ready, pods))


def pods_without_a_mesh(stage: Stage) -> str:
    stage.cluster.apply(
        apps.namespace("demo"),
        *map(apps.account, ("client", "server", "stranger", "near", "out", "host")),
        apps.deployment("client", "node-1", apps.CLIENT),
        apps.deployment("stranger", "node-1", apps.CLIENT),
        apps.deployment("server", "node-2", apps.SERVER, replicas=2),
        apps.deployment("near", "node-1", apps.SERVER),
        apps.deployment("out", "node-1", apps.CLIENT, labels={LABEL: "none"}),
        apps.deployment("host", "node-2", apps.SERVER, hostNetwork=True),
        apps.service("server"),
    )
    for app, count in (("client", 1), ("stranger", 1), ("server", 2), ("near", 1), ("out", 1), ("host", 1)):
        wait(f"pods of {app}", lambda app=app, count=count: stage.ready_pods(app, count))  # type: ignore[misc]
    with Wire(stage.cluster.control.pid) as wire:
        said = stage.ask("client", "server")
    assert wire.markers, "the wire is not seen"
    assert said.split()[1] == stage.ip("client"), said
    name, seen, _ = said.split()
    return f"before: {name} sees the client as {seen}, its words are on the wire {wire.markers} times"


def installed(stage: Stage) -> str:
    began_s = stage.applied_s = time.monotonic()
    stage.cluster.kubectl("label", "namespace", "demo", f"{LABEL}=ambient")
    documents = rendered(stage, "deploy/kubernetes")
    first = [
        each for each in documents if each["kind"] in ("Namespace", "CustomResourceDefinition", "Service")
    ]
    stage.cluster.apply(*first)
    # There is no DNS here: the agents are told the number of what they know by name elsewhere.
    point_at(documents, stage.cluster_ip("ztun-control-plane", NAMESPACE))
    stage.cluster.apply(*documents)
    wait("the control plane and two agents", lambda: are_ready(stage))
    return f"kubectl apply: control plane and an agent on each node ready after {time.monotonic() - began_s:.0f} s"


def rendered(stage: Stage, directory: str) -> list[dict[str, Any]]:
    text = stage.cluster.kubectl("kustomize", str(ROOT / directory))
    return [each for each in yaml.safe_load_all(text) if each]


def point_at(documents: list[dict[str, Any]], address: str) -> None:
    [daemon_set] = [each for each in documents if each["kind"] == "DaemonSet"]
    for variable in daemon_set["spec"]["template"]["spec"]["containers"][0]["env"]:
        if variable["name"] == "ZTUN_XDS_ADDRESS":
            variable["value"] = f"{address}:15012"


def are_ready(stage: Stage) -> bool:
    pods = stage.agents()
    return len(pods) == 3 and all(map(is_ready, pods))


def running_pods_are_enrolled(stage: Stage) -> str:
    """The label was there before ztun."""
    uids, restarts = stage.uid("server"), stage.restarts()
    wait("the pods are enrolled", lambda: stage.enrolled("client", "server", "near", "stranger"))
    took_s = time.monotonic() - stage.applied_s
    assert (stage.uid("server"), stage.restarts()) == (uids, restarts), "a pod was restarted"
    return (
        f"from kubectl apply to all pods of the labelled namespace enrolled, none restarted: {took_s:.0f} s "
        "(target: 90 s)"
    )


def traffic_is_mutual_tls(stage: Stage) -> str:
    with Wire(stage.cluster.control.pid) as wire:
        said = stage.ask("client", "server")
    assert said.split()[1] == stage.ip("client"), said
    assert not wire.markers and wire.tunnels, (
        f"{wire.markers} times in clear, {wire.tunnels} packets of HBONE"
    )
    return f"after: it sees {said.split()[1]} still, the words are on the wire 0 times, {wire.tunnels} packets of HBONE"


def services_answer(stage: Stage) -> str:
    address = stage.cluster_ip("server")
    seen = {ask(stage.uid("client"), address, 80).split()[0] for _ in range(20)}
    assert len(seen) == 2, f"only {seen}"
    return f"Service {address}:80 answers from both of its pods"


def within_a_node(stage: Stage) -> str:
    said = stage.ask("client", "near")
    assert said.split()[1] == stage.ip("client"), said
    return f"within a node: {said.split()[0]} sees {said.split()[1]}"


def left_alone(stage: Stage) -> str:
    assert not annotation(stage.pod("out")) and not annotation(stage.pod("host"))
    with Wire(stage.cluster.control.pid) as wire:
        ask(stage.uid("out"), stage.ip("host"))
    assert wire.markers, "the opted-out pod is captured"
    return f"a pod with {LABEL}=none and one with hostNetwork stay as they were, in clear"


def new_pods_are_enrolled(stage: Stage) -> str:
    stage.cluster.kubectl("-n", "demo", "scale", "deployment", "server", "--replicas=4")
    wait("4 servers", lambda: stage.ready_pods("server", 4))
    took_s = wait("they are enrolled", lambda: stage.enrolled("server"), 30)
    stage.cluster.kubectl("-n", "demo", "scale", "deployment", "server", "--replicas=2")
    wait("2 servers", lambda: len(stage.cluster.pods("demo", "server")) == 2)
    return f"new pods are enrolled {took_s:.1f} s after they are ready, deleted ones forgotten"


def first_packets(stage: Stage) -> str:
    """Pods that connect before anything else, again and again new ones."""
    rounds, replicas = 2, 10
    with Wire(stage.cluster.control.pid) as wire:
        for _ in range(rounds):
            stage.cluster.apply(
                apps.deployment(
                    "eager", "node-1", apps.EAGER, stage.ip("server"), replicas=replicas, user="client"
                )
            )
            wait("all have asked", lambda: stage.ready_pods("eager", replicas))
            stage.cluster.kubectl("-n", "demo", "delete", "deployment", "eager")
            wait("they are gone", lambda: not stage.cluster.pods("demo", "eager"))
    assert wire.tunnels and not wire.plain and not wire.markers, f"{wire.plain} SYNs in clear"
    return f"{rounds * replicas} new pods that connect at once: 0 plaintext SYNs on the wire"


def label_enrols(stage: Stage) -> str:
    stage.cluster.kubectl("label", "namespace", "demo", f"{LABEL}-")
    wait("nobody is enrolled", lambda: not any(map(annotation, stage.cluster.pods("demo"))), 30)
    with Wire(stage.cluster.control.pid) as wire:
        stage.ask("client", "server")
    assert wire.markers, "it is not in clear"
    stage.cluster.kubectl("label", "namespace", "demo", f"{LABEL}=ambient")
    took_s = wait("they are enrolled", lambda: stage.enrolled("client", "server", "near", "stranger"), 30)
    stage.ask("client", "server")
    return f"unlabelled: in clear; labelled again: enrolled after {took_s:.1f} s (target: 5 s)"


def job_completes(stage: Stage) -> str:
    stage.cluster.apply(apps.job("asker", "node-1", stage.cluster_ip("server")))
    wait(
        "the job is done",
        lambda: stage.cluster.get("job", "-n", "demo", "asker")["status"].get("succeeded") == 1,
        120,
    )
    stage.cluster.kubectl("-n", "demo", "delete", "job", "asker")
    return "a Job asks through the mesh, completes and is forgotten"


def strict_holds_and_probes_pass(stage: Stage) -> str:
    restarts = stage.restarts()
    out, server = stage.uid("out"), stage.ip("server")
    assert not refused(out, server), "plaintext is refused before it should be"
    stage.cluster.apply(apps.strict())
    took_s = wait("plaintext is refused", lambda: refused(out, server), 30)
    stage.ask("client", "server")
    time.sleep(5)  # five periods of each probe
    assert stage.ready_pods("server", 2) and stage.restarts() == restarts, "a probe failed"
    stage.cluster.kubectl("-n", "demo", "delete", "peerauthentication", "strict")
    wait("plaintext is let in", lambda: not refused(out, server), 30)
    return (
        f"STRICT: plaintext of others refused after {took_s:.1f} s; probes by HTTP, TCP and exec stay green"
    )


def policy_is_enforced(stage: Stage) -> str:
    client, server = stage.uid("client"), stage.ip("server")
    stage.cluster.apply(apps.policy("DENY", "server", [{}]))
    took_s = wait("the policy is in force", lambda: refused(client, server), 30)
    stage.cluster.kubectl("-n", "demo", "delete", "authorizationpolicy", "policy")
    wait("it is gone", lambda: not refused(client, server), 30)
    return f"a policy by kubectl apply is in force after {took_s:.2f} s, and gone with kubectl delete"


def identity_is_the_service_account(stage: Stage) -> str:
    client, stranger, server = stage.uid("client"), stage.uid("stranger"), stage.ip("server")
    rule = {"from": [{"source": {"principals": ["cluster.local/ns/demo/sa/client"]}}]}
    stage.cluster.apply(apps.policy("ALLOW", "server", [rule]))
    wait("strangers are denied", lambda: refused(stranger, server), 30)
    assert not refused(client, server), "the client is denied"
    stage.cluster.kubectl("-n", "demo", "delete", "authorizationpolicy", "policy")
    wait("it is gone", lambda: not refused(stranger, server), 30)
    return "ALLOW of account `client`: it passes, account `stranger` does not"


def network_policy_holds(stage: Stage) -> str:
    node = stage.cluster.nodes["node-1"]
    stage.ask("client", "server")
    pair = f"ip saddr {stage.ip('client')} ip daddr {stage.ip('server')}"
    rule = (
        f"table ip guard {{\n chain forward {{\n type filter hook forward priority 0\n {pair} drop\n}}\n}}\n"
    )
    node.run("nft", "-f", "-", text=rule)
    try:
        assert refused(stage.uid("client"), stage.ip("server")), "it passes"
        assert not refused(stage.uid("stranger"), stage.ip("server")), "others are dropped, too"
    finally:
        node.run("nft", "delete", "table", "ip", "guard")
    wait("it passes again", lambda: not refused(stage.uid("client"), stage.ip("server"), patience_s=5), 60)
    return "what a NetworkPolicy of the host drops between two pods is dropped, and nothing else"


def rolling_update(stage: Stage) -> str:
    with Load(stage.uid("client"), stage.ip("server")) as load:
        time.sleep(1)
        stage.cluster.kubectl("-n", NAMESPACE, "rollout", "restart", "daemonset", "ztun-agent")
        stage.cluster.kubectl(
            "-n", NAMESPACE, "rollout", "status", "daemonset", "ztun-agent", "--timeout=280s"
        )
        time.sleep(2)
    said = (
        f"rolling update of the DaemonSet: {load.asked} new requests, {load.failed} failed, the slowest took "
        f"{load.longest_s:.1f} s; {load.resets} resets of a live connection"
    )
    assert not load.failed, f"{said}: {load.reasons}"
    return said


def killed_agent(stage: Stage) -> str:
    name = stage.agent("node-2")
    with Load(stage.uid("client"), stage.ip("server")) as load:
        stage.cluster.kubectl("-n", NAMESPACE, "delete", "pod", name, "--force", "--grace-period=0")
        wait("another agent", lambda: stage.agent("node-2") not in ("", name), 60)
        wait("it is ready", lambda: are_ready(stage))
        time.sleep(1)
    assert not load.failed, f"{load.failed} of {load.asked} failed: {load.reasons}"
    return (
        f"an agent pod deleted by force: {load.asked} new requests, 0 failed, the slowest took "
        f"{load.longest_s:.1f} s; {load.resets} resets of a live connection"
    )


def rebooted_node(stage: Stage) -> str:
    cluster, client, before = stage.cluster, stage.uid("client"), stage.restarts("server")
    node = cluster.nodes["node-2"]
    node.halt()
    cluster.control.run("ip", "link", "del", "port2", check=False)
    node.boot()
    plugged_in(cluster.control, node, 2)
    began_s = time.monotonic()
    cluster.start_node("node-2", 2)
    # The API says for a while what was so before.
    wait("the servers run again", lambda: stage.restarts("server") >= before + 2)
    wait("both agents", lambda: are_ready(stage))
    wait("the servers", lambda: stage.ready_pods("server", 2) and stage.enrolled("server"))
    with Wire(cluster.control.pid) as wire:
        wait("they answer", lambda: not refused(client, stage.ip("server"), patience_s=5), 60)
    assert not wire.markers, "in clear after the reboot"
    return f"a node that reboots: its pods are back and in the mesh {time.monotonic() - began_s:.0f} s later"


def uninstalled(stage: Stage) -> str:
    cluster = stage.cluster
    cluster.kubectl("label", "namespace", "demo", f"{LABEL}-")
    wait("nobody is enrolled", lambda: not any(map(annotation, cluster.pods("demo"))), 30)
    documents = rendered(stage, "deploy/kubernetes/uninstall")
    cluster.kubectl("-n", NAMESPACE, "delete", "daemonset", "ztun-agent")
    wait("the agents are gone", lambda: len(cluster.pods(NAMESPACE)) == 1)
    cluster.apply(*documents)
    wait("uninstalled on both nodes", lambda: sum(is_ready(pod) for pod in cluster.pods(NAMESPACE)) == 3, 120)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": rendered(stage, "deploy/kubernetes")})
    cluster.kubectl("delete", "--ignore-not-found", "-f", "-", text=listed)
    wait(
        "the namespace is gone",
        lambda: not cluster.kubectl("get", "ns", NAMESPACE, "--ignore-not-found"),
        120,
    )
    for node in cluster.nodes.values():
        left = {
            "pins": node.run("sh", "-c", "ls -A /sys/fs/bpf | grep -v '[.]debug$'", check=False),
            "namespaces": node.run("sh", "-c", "ls /run/netns | grep -v '^cni-'", check=False),
            "run directory": node.run("sh", "-c", "ls -A /run/ztun", check=False),
            "CNI": node.run(
                "sh", "-c", "grep -l ztun /etc/cni/net.d/*; ls /opt/cni/bin | grep ztun", check=False
            ),
            "interfaces": node.run("sh", "-c", "ip -o link | grep -i ztun", check=False),
        }
        assert not any(left.values()), f"{node.name}: {left}"
    with Wire(cluster.control.pid) as wire:
        stage.ask("client", "server")
    assert wire.markers
    roles = cluster.kubectl("get", "clusterroles,clusterrolebindings,crds", "-o", "name")
    assert "ztun" not in roles and "istio" not in roles, roles
    return "uninstalled: pods run on in clear; no pin, namespace, interface, file, role or definition of ztun is left"


Fact = Callable[[Stage], str]
FACTS: tuple[tuple[str, tuple[Fact, ...]], ...] = (
    ("installation", (pods_without_a_mesh, installed, running_pods_are_enrolled)),
    (
        "the mesh",
        (
            traffic_is_mutual_tls,
            services_answer,
            within_a_node,
            left_alone,
            new_pods_are_enrolled,
            first_packets,
            label_enrols,
            job_completes,
        ),
    ),
    (
        "policy",
        (
            strict_holds_and_probes_pass,
            policy_is_enforced,
            identity_is_the_service_account,
            network_policy_holds,
        ),
    ),
    ("operation", (rolling_update, killed_agent, rebooted_node, uninstalled)),
)
