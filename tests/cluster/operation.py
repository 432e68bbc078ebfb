"""What becomes of traffic while agents come and go. Each fact returns its line, or raises."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import apps
from tests.cluster.kubernetes import annotation, wait
from tests.cluster.machine import Machine, plugged_in
from tests.cluster.stage import LABEL, NAMESPACE, Pod, Stage, are_ready, rendered
from tests.cluster.traffic import Load, Wire, pids_of, refused

AWAY_S = 12.0


def rolling_update(stage: Stage) -> str:
    unanswered = stage.unanswered()
    with Load(stage.uid("client"), stage.ip("server")) as load:
        time.sleep(1)
        for what in (("restart",), ("status", "--timeout=280s")):
            stage.cluster.kubectl(
                "-n", stage.namespace, "rollout", what[0], "daemonset/ztun-agent", *what[1:]
            )
        time.sleep(2)
    said = f"rolling update of the DaemonSet: {load.told()}"
    assert not load.failed and not load.resets, f"{said}: {load.reasons}"
    return f"{said}; {stage.probed(unanswered)}"


def killed_agent(stage: Stage) -> str:
    name, unanswered = stage.agent("node-2"), stage.unanswered()
    with Load(stage.uid("client"), stage.ip("server")) as load:
        stage.cluster.kubectl("-n", NAMESPACE, "delete", "pod", name, "--force", "--grace-period=0")
        wait("another agent", lambda: stage.agent("node-2") not in ("", name), 60)
        wait("it is ready", lambda: are_ready(stage))
        time.sleep(1)
    said = load.told()
    assert not load.failed and not load.resets, f"{said}: {load.reasons}"
    return f"an agent pod deleted by force: {said}; {stage.probed(unanswered)}"


def two_agents(stage: Stage) -> str:
    """A second agent comes up on a node, as in a surge, waits there, and follows when the first one ends."""
    cluster, name = stage.cluster, stage.agent("node-2")
    spec = cluster.get("pod", "-n", NAMESPACE, name)["spec"]
    second = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "ztun-next", "namespace": NAMESPACE},
        "spec": spec,
    }
    with Load(stage.uid("client"), stage.ip("server")) as load:
        cluster.apply(second)
        wait("the second agent waits", lambda: "waiting until it ends" in cluster.log("node-2", "ztun-next"))
        assert not is_serving(stage, "ztun-next"), "both serve"
        asked = load.asked
        wait("twenty more requests", lambda: load.asked > asked + 20, 60)
        cluster.kubectl("-n", NAMESPACE, "delete", "pod", name, "--wait=false")
        wait("the second agent serves", lambda: is_serving(stage, "ztun-next"), 60)
        wait("another waits in turn", lambda: stage.agent("node-2") not in ("", name), 60)
        third = stage.agent("node-2")
        wait("it waits", lambda: "waiting until it ends" in cluster.log("node-2", third))
        cluster.kubectl("-n", NAMESPACE, "delete", "pod", "ztun-next")
        wait("it serves", lambda: is_serving(stage, third), 60)
        asked = load.asked
        wait("twenty more requests", lambda: load.asked > asked + 20, 60)
    wait("both agents", lambda: are_ready(stage))
    said = load.told()
    assert not load.failed and not load.resets, f"{said}: {load.reasons}"
    return f"a second agent on a node waits and follows, twice: {said}"


def taken_over(stage: Stage) -> str:
    """As in a surge: the second agent asks for the place, the first one stands by, and serves when the second ends."""
    cluster, name = stage.cluster, stage.agent("node-2")
    spec = cluster.get("pod", "-n", NAMESPACE, name)["spec"]
    spec["containers"][0]["env"].append({"name": "ZTUN_TAKE_OVER_S", "value": "200"})
    metadata = {"name": "ztun-surge", "namespace": NAMESPACE}
    restarts = stage.restarts_of_agents()
    with Load(stage.uid("client"), stage.ip("server")) as load:
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        wait("the first one steps aside", lambda: "stepping aside" in cluster.log("node-2", name))
        wait("the second one serves", lambda: is_serving(stage, "ztun-surge"))
        asked, served = load.asked, cluster.log("node-2", name).count("serving:")
        wait("twenty more requests", lambda: load.asked > asked + 20, 60)
        cluster.kubectl("-n", NAMESPACE, "delete", "pod", "ztun-surge")
        wait("the first one serves again", lambda: cluster.log("node-2", name).count("serving:") > served)
        asked = load.asked
        wait("twenty more requests", lambda: load.asked > asked + 20, 60)
    wait("both agents", lambda: are_ready(stage))
    said = load.told()
    assert stage.agent("node-2") == name and stage.restarts_of_agents() == restarts, (
        "the first one was restarted"
    )
    assert not load.failed and not load.resets, f"{said}: {load.reasons}"
    return f"a second agent on a node takes over beside the first one, which serves again when it is deleted: {said}"


def crashed_agent(stage: Stage) -> str:
    """Its control process is killed, as for want of memory: the kubelet starts the container anew."""
    name, unanswered = stage.agent("node-2"), stage.unanswered()
    uid = next(agent_id(pod) for pod in stage.agents() if pod["metadata"]["name"] == name)
    served, restarts = cluster_log(stage, name).count("serving:"), stage.restarts_of_agents()
    with Load(stage.uid("client"), stage.ip("server")) as load:
        os.kill(control_of(uid), signal.SIGKILL)
        wait("it is started anew", lambda: stage.restarts_of_agents() > restarts)
        wait("it serves", lambda: cluster_log(stage, name).count("serving:") > served)
        wait("both agents", lambda: are_ready(stage))
        asked = load.asked
        wait("twenty more requests", lambda: load.asked > asked + 20, 60)
    assert not load.failed, f"{load.told()}: {load.reasons}"
    return f"an agent's process killed, its container started anew: {load.told()}; {stage.probed(unanswered)}"


def cluster_log(stage: Stage, name: str) -> str:
    return stage.cluster.log("node-2", name)


def control_of(uid: str) -> int:
    """The control process of the agent in a pod: the first of its container. Raises LookupError."""
    found = [pid for pid in pids_of(uid) if b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if not found:
        raise LookupError(f"no agent in pod {uid}")
    return min(found)


def api_server_away(stage: Stage) -> str:
    """Agents stay ready and go on serving, none is started anew; what is written afterwards counts."""
    cluster, client, server = stage.cluster, stage.uid("client"), stage.ip("server")
    out, probed = stage.uid("out"), stage.ip("probed")
    before = {agent_id(pod): restarts_of(pod) for pod in stage.agents()}
    cluster.stop_api_server()
    try:
        answers = set()
        with Load(client, server) as load:
            began_s = time.monotonic()
            # Longer than a probe that fails is forgiven, and than the watches take to notice.
            while time.monotonic() < began_s + AWAY_S or load.asked < 40:
                answers |= {readiness(node) for node in cluster.nodes.values()}
                time.sleep(0.5)
        assert answers == {"200"}, f"readiness: {sorted(answers)}"
        assert not load.failed and not load.resets, f"{load.told()}: {load.reasons}"
        assert refused(out, probed), "STRICT does not hold without the API server"
    finally:
        cluster.start_api_server()
    wait("both agents are ready in its eyes", lambda: are_ready(stage), 60)
    after = {agent_id(pod): restarts_of(pod) for pod in stage.agents()}
    assert after == before, f"agents were started anew: {before}, {after}"
    name = str(stage.pod("near")["metadata"]["name"])
    cluster.kubectl("-n", "demo", "label", "pod", name, f"{LABEL}=none")
    back_s = wait("a pod is let go", lambda: not annotation(stage.pod("near")), 60)
    cluster.kubectl("-n", "demo", "label", "pod", name, f"{LABEL}-")
    wait("it is taken in", lambda: stage.enrolled("near"), 30)
    return (
        f"the API server is away for {AWAY_S:g} s: both agents stay ready, {load.told()}; a label is followed "
        f"{back_s:.1f} s after it is written when the server is back"
    )


def readiness(node: Machine) -> str:
    """The status that the kubelet of a node is answered by its agent."""
    question = ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}")
    return node.run(*question, "http://127.0.0.1:15021/healthz/ready", check=False)


def agent_id(pod: Pod) -> str:
    return str(pod["metadata"]["uid"])


def restarts_of(pod: Pod) -> int:
    return sum(each["restartCount"] for each in pod["status"]["containerStatuses"])


def is_serving(stage: Stage, agent: str) -> bool:
    return "serving:" in stage.cluster.log("node-2", agent)


def rebooted_node(stage: Stage) -> str:
    cluster, client, before = stage.cluster, stage.uid("client"), stage.restarts("server")
    node = cluster.nodes["node-2"]
    node.halt()
    cluster.control.run("ip", "link", "del", "port2", check=False)
    node.boot()
    plugged_in(cluster.control, node, 2)
    began_s = time.monotonic()
    cluster.start_node("node-2")
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
    taken_off(stage, "deploy/kubernetes", lambda: pods_wait(stage))
    wait(
        "the namespace is gone",
        lambda: not cluster.kubectl("get", "ns", NAMESPACE, "--ignore-not-found"),
        120,
    )
    nothing_is_left(stage)
    wait("the pod that waited runs", lambda: stage.ready_pods("late", 1), 120)
    cluster.kubectl("-n", "demo", "delete", "deployment", "late")
    runs_in_clear(stage)
    return (
        "without an agent a new pod waits, and its event says why; uninstalled: it starts, pods run on in clear; "
        "no pin, namespace, interface, file, role or definition of ztun is left"
    )


def pods_wait(stage: Stage) -> None:
    """Without an agent the CNI plugin starts no pod, and says why."""
    stage.cluster.apply(apps.deployment("late", "node-1", apps.CLIENT, user="client"))
    why = "the ztun agent does not answer on"
    wait("an event says why", lambda: why in stage.events_of("late"), 120)
    assert not stage.ready_pods("late", 1), "it runs"


def unlabelled(stage: Stage) -> None:
    stage.cluster.kubectl("label", "namespace", "demo", f"{LABEL}-")
    wait("nobody is enrolled", lambda: not any(map(annotation, stage.cluster.pods("demo"))), 30)


def taken_off(stage: Stage, tree: str, waits: Callable[[], object] | None = None) -> None:
    """As the README says it, of manifests and their `uninstall`. `waits`: called while there is no agent any more."""
    cluster = stage.cluster
    unlabelled(stage)
    cluster.kubectl("-n", stage.namespace, "delete", "daemonset", "ztun-agent")
    wait("the agents are gone", lambda: len(stage.agents()) == stage.plane_pods)
    if waits:
        waits()
    remover = rendered(stage, f"{tree}/uninstall")
    cluster.apply(*remover)
    wait("uninstalled on both nodes", lambda: are_ready(stage), 120)
    listed = {"apiVersion": "v1", "kind": "List", "items": [*remover, *rendered(stage, tree)]}
    cluster.kubectl("delete", "--ignore-not-found", "-f", "-", text=json.dumps(listed))


def nothing_is_left(
    stage: Stage, kinds: Sequence[str] = ("clusterroles", "clusterrolebindings", "crds")
) -> None:
    """On the nodes, and of these kinds in the API."""
    for node in stage.cluster.nodes.values():
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
    objects = stage.cluster.kubectl("get", ",".join(kinds), "-o", "name")
    assert "ztun" not in objects and "istio" not in objects, objects


def runs_in_clear(stage: Stage) -> None:
    with Wire(stage.cluster.control.pid) as wire:
        stage.ask("client", "server")
    assert wire.markers, "what should be in clear is not on the wire"
