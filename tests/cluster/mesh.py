"""Installation, and what the mesh does for pods. Each fact returns its line, or raises."""

from __future__ import annotations

import time

from tests.cluster import apps
from tests.cluster.kubernetes import annotation, is_ready, wait
from tests.cluster.stage import LABEL, NAMESPACE, Stage, are_ready, environment, point_at, rendered
from tests.cluster.traffic import Load, Wire, ask

OPTIONS = {"ZTUN_HOST_TRAFFIC": "kubelet", "ZTUN_KEEP_EXISTING_S": "600"}
"""What the agents are told beside what the manifests say: the first for all facts that are about probes, the second
for `label_enrols`."""


def pods_without_a_mesh(stage: Stage) -> str:
    stage.cluster.apply(
        apps.namespace("demo"),
        *map(apps.account, ("client", "server", "stranger", "near", "out", "host", "probed")),
        apps.deployment("client", "node-1", apps.CLIENT),
        apps.deployment("stranger", "node-1", apps.CLIENT),
        apps.deployment("server", "node-2", apps.SERVER, replicas=2),
        apps.deployed(apps.probed("node-2")),
        apps.deployment("near", "node-1", apps.SERVER),
        apps.deployment("out", "node-1", apps.CLIENT, labels={LABEL: "none"}),
        apps.deployment("host", "node-2", apps.SERVER, hostNetwork=True),
        apps.service("server"),
    )
    for app in ("client", "stranger", "server", "near", "out", "host", "probed"):
        count = 2 if app == "server" else 1
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
    environment(documents).extend({"name": name, "value": value} for name, value in OPTIONS.items())
    stage.cluster.apply(*documents)
    wait("the control plane and two agents", lambda: are_ready(stage))
    return f"kubectl apply: control plane and an agent on each node ready after {time.monotonic() - began_s:.0f} s"


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
    cluster = stage.cluster
    cluster.apply(
        apps.namespace("plain"),
        apps.account("client", "plain"),
        apps.deployment("client", "node-1", apps.CLIENT, namespace="plain"),
    )
    wait("a pod of another namespace", lambda: [*map(is_ready, cluster.pods("plain"))] == [True])
    [other] = cluster.pods("plain")
    for uid in (stage.uid("out"), str(other["metadata"]["uid"])):
        with Wire(cluster.control.pid) as wire:
            ask(uid, stage.ip("host"))
        assert wire.markers, "who is not in the mesh is captured"
    assert not annotation(other)
    cluster.kubectl("delete", "namespace", "plain", "--wait=false")
    return f"a pod with {LABEL}=none, one with hostNetwork and one of another namespace stay as they were, in clear"


def new_pods_are_enrolled(stage: Stage) -> str:
    stage.cluster.kubectl("-n", "demo", "scale", "deployment", "server", "--replicas=4")
    wait("4 servers", lambda: stage.ready_pods("server", 4))
    took_s = wait("they are enrolled", lambda: stage.enrolled("server"), 30)
    stage.cluster.kubectl("-n", "demo", "scale", "deployment", "server", "--replicas=2")
    wait("2 servers", lambda: len(stage.cluster.pods("demo", "server")) == 2)
    return f"new pods are enrolled {took_s:.1f} s after they are ready, deleted ones forgotten"


def first_packets(stage: Stage) -> str:
    """Pods that connect before anything else, again and again new ones."""
    rounds, replicas = 5, 10
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
    wire.shows_nothing()
    assert wire.tunnels, "nothing passed"
    return f"{rounds * replicas} new pods that connect at once: 0 plaintext SYNs on the wire"


def label_enrols(stage: Stage) -> str:
    stage.cluster.kubectl("label", "namespace", "demo", f"{LABEL}-")
    wait("nobody is enrolled", lambda: not any(map(annotation, stage.cluster.pods("demo"))), 30)
    with Wire(stage.cluster.control.pid) as wire:
        stage.ask("client", "server")
    assert wire.markers, "it is not in clear"
    with Load(stage.uid("client"), stage.ip("server")) as load:
        wait("twenty requests", lambda: load.asked > 20, 60)
        stage.cluster.kubectl("label", "namespace", "demo", f"{LABEL}=ambient")
        took_s = wait("they are enrolled", lambda: stage.enrolled("client", "server", "near", "stranger"), 30)
        asked = load.asked
        wait("twenty more", lambda: load.asked > asked + 20, 60)
    said = load.told()
    assert not load.failed and not load.resets, f"{said}: {load.reasons}"
    with Wire(stage.cluster.control.pid) as wire:
        stage.ask("client", "server")
    assert not wire.markers, "it is in clear"
    return f"unlabelled: in clear; labelled again under load: enrolled after {took_s:.1f} s (target: 5 s), {said}"


def job_completes(stage: Stage) -> str:
    stage.cluster.apply(apps.job("asker", "node-1", stage.cluster_ip("server")))
    wait("the job is done", lambda: stage.is_done("asker"), 120)
    stage.cluster.kubectl("-n", "demo", "delete", "job", "asker")
    return "a Job asks through the mesh, in an init container and then, completes and is forgotten"
