"""What becomes of pods: they end, move, come again, and others get their addresses.

Each fact returns its line, or raises.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.cluster import apps
from tests.cluster.kubernetes import annotation, is_ready, wait
from tests.cluster.stage import LABEL, Stage
from tests.cluster.traffic import Load, Wire, ask, passes, pids_of, refused

MOVING = "moving"


def node_drained(stage: Stage) -> str:
    """A Service whose pods are deleted, replaced and driven from a node, with a budget, beneath new requests."""
    cluster = stage.cluster
    # Not by `tolerations` of the others, who may be on a node that is closed.
    made = apps.template(
        MOVING,
        "",
        apps.SERVER,
        user="server",
        nodeSelector={},
        tolerations=[],
        terminationGracePeriodSeconds=10,
    )
    cluster.apply(apps.deployed(made, replicas=2), apps.service(MOVING), apps.budget(MOVING))
    wait("two pods, in the mesh", lambda: stage.ready_pods(MOVING, 2) and stage.enrolled(MOVING))
    address = stage.cluster_ip(MOVING)
    wait("the Service answers", lambda: passes(stage.uid("client"), address, 80), 60)
    with Load(stage.uid("client"), address, 80, live=0) as load, Wire(cluster.control.pid) as wire:
        for what in ("restart", "status"):
            cluster.kubectl("-n", "demo", "rollout", what, f"deployment/{MOVING}")
        cluster.kubectl("-n", "demo", "delete", "pod", str(stage.pod(MOVING)["metadata"]["name"]))
        wait("it is replaced", lambda: stage.ready_pods(MOVING, 2) and stage.enrolled(MOVING))
        try:
            drain = (
                "drain",
                "node-2",
                "--ignore-daemonsets",
                f"--pod-selector=app={MOVING}",
                "--timeout=200s",
            )
            cluster.kubectl(*drain)
            wait("its pods are elsewhere", lambda: stage.ready_pods(MOVING, 2) and stage.enrolled(MOVING))
            assert {pod["spec"]["nodeName"] for pod in cluster.pods("demo", MOVING)} == {"node-1"}
            load.goes_on()
        finally:
            cluster.kubectl("uncordon", "node-2")
    for kind in ("poddisruptionbudget", "service", "deployment"):
        cluster.kubectl("-n", "demo", "delete", kind, MOVING)
    said = load.nothing_is_lost("the pods of a Service restarted, deleted, and drained from a node")
    wire.shows_nothing()
    return said


def same_name_again(stage: Stage) -> str:
    """A pod of a StatefulSet has its name for ever, and each time another address."""
    cluster = stage.cluster
    cluster.apply(apps.policy("ALLOW", "kept", apps.by_account("client")), apps.service("kept"))
    cluster.apply(apps.stateful_set("kept", "node-2", user="server"))
    addresses = []
    for _ in range(2):
        wait("it is there, in the mesh", lambda: stage.ready_pods("kept", 1) and stage.enrolled("kept"))
        before, address = stage.uid("kept"), stage.ip("kept")
        addresses.append(address)
        with Wire(cluster.control.pid) as wire:
            # From its first moment: who is not meant to is not let in, however new it is.
            assert refused(stage.uid("stranger"), address), "strangers are let in"
            wait("it answers", lambda address=address: passes(stage.uid("client"), address), 30)  # type: ignore[misc]
            said = ask(stage.uid("client"), stage.cluster_ip("kept"), 80)
            assert said.startswith("kept-0 "), said
        wire.shows_nothing()
        cluster.kubectl("-n", "demo", "delete", "pod", "kept-0")
        wait("it is another", lambda before=before: uid_of_kept(stage) not in ("", before), 60)  # type: ignore[misc]
    assert len({*addresses}) == 2, addresses
    assert refused(stage.uid("client"), addresses[0]), "its old address answers"
    for kind, name in (("statefulset", "kept"), ("service", "kept"), ("authorizationpolicy", "policy")):
        cluster.kubectl("-n", "demo", "delete", kind, name)
    return f"kept-0 of a StatefulSet, made again elsewhere ({', '.join(addresses)}): its policy holds at once"


def uid_of_kept(stage: Stage) -> str:
    pods = stage.cluster.pods("demo", "kept")
    return str(pods[0]["metadata"]["uid"]) if pods else ""


def address_of_one_that_ended(stage: Stage) -> str:
    """A Job's pod that has ended keeps its address in the API; on its node another account's pod gets it."""
    cluster, node = stage.cluster, stage.cluster.nodes["node-1"]
    cluster.apply(apps.job("ended", "node-1", stage.cluster_ip("server")))
    wait("the job is done", lambda: stage.is_done("ended"), 120)
    address = stage.ip("ended")
    reserved = f"/var/lib/cni/networks/pods/{address}"
    wait("its address is free", lambda: node.run("sh", "-c", f"ls {reserved}", check=False) == "", 120)
    # The next one that host-local gives is the first that is free above this.
    below = ".".join([*address.split(".")[:3], str(int(address.split(".")[3]) - 1)])
    node.write("/var/lib/cni/networks/pods/last_reserved_ip.0", below)
    cluster.apply(apps.policy("ALLOW", "server", apps.by_account("client")))
    cluster.apply(apps.deployment("heir", "node-1", apps.SERVER, user="stranger"))
    try:
        wait("another pod", lambda: stage.ready_pods("heir", 1) and stage.enrolled("heir"))
        assert stage.ip("heir") == address, f"it has {stage.ip('heir')}, not {address}"
        assert stage.ip("ended") == address, "the one that ended is forgotten"
        with Wire(cluster.control.pid) as wire:
            assert refused(stage.uid("heir"), stage.ip("server")), "it is taken for the one that ended"
            assert passes(stage.uid("client"), stage.ip("server")), "others are denied, too"
            said = stage.ask("client", "heir")
            assert said.startswith("heir-"), said
        cluster.kubectl("-n", "demo", "delete", "job", "ended")
        wait("the job's pod is deleted", lambda: not cluster.pods("demo", "ended"), 60)
        assert refused(stage.uid("heir"), stage.ip("server")), "it passes when the other one is deleted"
        stage.ask("client", "heir")
    finally:
        cluster.kubectl("-n", "demo", "delete", "deployment", "heir")
        cluster.kubectl("-n", "demo", "delete", "authorizationpolicy", "policy")
    assert not wire.markers, "in clear"
    return f"a pod gets the address of one that ended and is still listed ({address}): it is itself, by its own account"


def started_anew(stage: Stage) -> str:
    """Beneath pods that live: a container of one, and on a node what runs all of them."""
    cluster, near, restarts = stage.cluster, stage.uid("near"), stage.restarts("near")
    with Load(stage.uid("client"), stage.ip("server")) as load:
        cluster.restart_containerd("node-2")
        cluster.restart_kubelet("node-2")
        os.kill(process_of(near), signal.SIGKILL)
        wait("its container is started anew", lambda: stage.restarts("near") > restarts, 60)
        wait("it is ready", lambda: stage.ready_pods("near", 1), 60)
        said = stage.ask("client", "near")
        assert said.split()[1] == stage.ip("client") and stage.uid("near") == near, said
        load.goes_on()
    return load.nothing_is_lost("containerd and kubelet of a node, and a pod's container, started anew")


def process_of(uid: str) -> int:
    """The server in a pod. Raises LookupError."""
    for pid in pids_of(uid):
        if b"socketserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise LookupError(f"no server in pod {uid}")


def label_of_a_pod(stage: Stage) -> str:
    """Of two in a namespace without a label one has its own; with the namespace both are gone, also from the nodes."""
    cluster, place = stage.cluster, "mixed"
    cluster.apply(apps.namespace(place), apps.account("client", place))
    for app, labels in (("in", {LABEL: "ambient"}), ("out", {})):
        made = apps.deployment(app, "node-1", apps.CLIENT, namespace=place, labels=labels, user="client")
        cluster.apply(made)
    wait("both run", lambda: [*map(is_ready, cluster.pods(place))] == [True] * 2)
    uids = {pod["metadata"]["labels"]["app"]: str(pod["metadata"]["uid"]) for pod in cluster.pods(place)}
    marked = {pod["metadata"]["labels"]["app"]: annotation(pod) for pod in cluster.pods(place)}
    assert marked == {"in": "enabled", "out": ""}, marked
    cluster.apply(apps.strict())
    try:
        wait("plaintext is refused", lambda: refused(uids["out"], stage.ip("server")), 30)
        with Wire(cluster.control.pid) as wire:
            assert passes(uids["in"], stage.ip("server")), "the one that has the label is not in the mesh"
        assert not wire.markers, "in clear"
        captured = enrolled_on(stage, "node-1")
        cluster.kubectl("delete", "namespace", place)
        wait("it is forgotten", lambda: enrolled_on(stage, "node-1") == captured - 1, 60)
    finally:
        cluster.kubectl("-n", "demo", "delete", "peerauthentication", "strict")
    return "a pod that alone has the label in its namespace is in the mesh, its neighbour is not; gone, it is forgotten"


def enrolled_on(stage: Stage, node: str) -> int:
    """How many pods the agent of a node has."""
    for line in stage.cluster.nodes[node].run("curl", "-s", "http://127.0.0.1:15020/metrics").splitlines():
        if line.startswith("workload_manager_active_proxy_count"):
            return int(float(line.rpartition(" ")[2]))
    raise LookupError(f"the agent of {node} does not say how many pods it has")
