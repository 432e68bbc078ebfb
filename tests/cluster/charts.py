"""The same by Helm: the chart installed, upgraded and removed. Each fact returns its line, or raises."""

from __future__ import annotations

import time

from tests.cluster import apps
from tests.cluster.kubernetes import wait
from tests.cluster.mesh import traffic_is_mutual_tls
from tests.cluster.operation import nothing_is_left, runs_in_clear, unlabelled
from tests.cluster.stage import LABEL, NAMESPACE, ROOT, Stage, are_ready
from tests.cluster.traffic import Load, passes, refused
from tests.support import helm

CHART = ROOT / "deploy" / "helm" / "ztun"
NAME = f"ztun-control-plane.{NAMESPACE}.svc"
DAEMON_SET = "daemonset/ztun-agent"


def run_helm(stage: Stage, *arguments: str) -> str:
    assert helm.HELM is not None, helm.MISSING
    homes = [f"HELM_{name}_HOME=/tmp/helm/{name}" for name in ("CACHE", "CONFIG", "DATA")]
    where = ("--namespace", stage.namespace, f"--kubeconfig={stage.cluster.kubeconfig}")
    return stage.cluster.control.run("env", *homes, helm.HELM, *arguments, *where)


def installed_by_helm(stage: Stage) -> str:
    cluster = stage.cluster
    cluster.kubectl("label", "namespace", "demo", f"{LABEL}=ambient")
    began_s = time.monotonic()
    run_helm(stage, "install", "ztun", str(CHART), "--create-namespace")
    # There is no DNS here: a pod with its node's network has the names that the node has.
    address = stage.cluster_ip("ztun-control-plane", NAMESPACE)
    for node in cluster.nodes.values():
        node.write("/etc/hosts", f"127.0.0.1 localhost\n{address} {NAME}\n")
    cluster.kubectl("-n", NAMESPACE, "delete", "pods", "-l", "app.kubernetes.io/name=ztun-agent")
    wait("the control plane and two agents", lambda: are_ready(stage))
    wait("the pods are enrolled", lambda: stage.enrolled("client", "server", "near", "stranger"))
    return (
        f"helm install: all pods of the labelled namespace enrolled after {time.monotonic() - began_s:.0f} s"
    )


def enforced_by_helm(stage: Stage) -> str:
    client, server = stage.uid("client"), stage.ip("server")
    stage.cluster.apply(apps.policy("DENY", "server", apps.by_account("client")))
    took_s = wait("the policy is in force", lambda: refused(client, server), 30)
    assert passes(stage.uid("stranger"), server), "others are denied, too"
    stage.cluster.kubectl("-n", "demo", "delete", "authorizationpolicy", "policy")
    wait("it is gone", lambda: not refused(client, server), 30)
    return f"a policy is in force after {took_s:.2f} s"


def upgraded(stage: Stage) -> str:
    """Of one value; its agents are rolled."""
    cluster = stage.cluster
    with Load(stage.uid("client"), stage.ip("server")) as load:
        run_helm(stage, "upgrade", "ztun", str(CHART), "--reuse-values", "--set", "agent.logLevel=debug")
        cluster.kubectl("-n", NAMESPACE, "rollout", "status", DAEMON_SET, "--timeout=280s")
        wait("both agents", lambda: are_ready(stage))
    names = [stage.agent(node) for node in cluster.nodes]
    for node, name in zip(cluster.nodes, names, strict=True):
        assert "\tdebug\t" in cluster.log(node, name), f"the agent of {node} has the old value"
    said = f"{load.asked} new requests, {load.failed} failed, the slowest took {load.longest_s:.1f} s"
    assert not load.failed, f"{said}: {load.reasons}"
    return f"helm upgrade with a changed value: both agents have it; {said}"


def taken_off_by_helm(stage: Stage) -> None:
    """As the README says it; what has cleaned the nodes is still there."""
    unlabelled(stage)
    run_helm(stage, "uninstall", "ztun")
    stage.cluster.kubectl(
        "-n", stage.namespace, "rollout", "status", "daemonset/ztun-uninstall", "--timeout=200s"
    )


def removed_by_helm(stage: Stage) -> str:
    taken_off_by_helm(stage)
    stage.cluster.kubectl("delete", "namespace", NAMESPACE)
    nothing_is_left(stage, kinds=("clusterroles", "clusterrolebindings"))
    runs_in_clear(stage)
    return "helm uninstall: pods run on in clear; of ztun the kinds of policy are left, and nothing else"


FACTS = (installed_by_helm, traffic_is_mutual_tls, enforced_by_helm, upgraded, removed_by_helm)
