"""Versions beside each other on the same nodes, and none for a while. Each fact returns its line, or raises."""

from __future__ import annotations

import copy
import json

from tests.cluster import apps
from tests.cluster.kubernetes import wait
from tests.cluster.stage import Stage, are_ready
from tests.cluster.traffic import Load, Wire

LIVE = 20
FIRST, NEXT = "ztun-agent", "ztun-next"
TAKE_OVER = {"name": "ZTUN_TAKE_OVER_S", "value": "200"}


def next_version_beside(stage: Stage) -> str:
    """As in a surge, on all nodes at once. The next version is a DaemonSet of its own: this API knows no surge."""
    first = stage.cluster.get("daemonset", "-n", stage.namespace, FIRST)
    restarts = stage.restarts_of_agents()
    with Load(stage.uid("client"), stage.ip("server"), live=LIVE) as load:
        starts(stage, daemon_set(first, NEXT, TAKE_OVER))
        served = served_by(stage, FIRST)
        load.goes_on()
        ends(stage, NEXT)
        wait("the first version serves again", lambda: is_more(served_by(stage, FIRST), served))
        load.goes_on()
        assert stage.restarts_of_agents() == restarts, "an agent of the first version was restarted"
        starts(stage, daemon_set(first, NEXT, TAKE_OVER))
        ends(stage, FIRST)
        load.goes_on()
        # Back to what was there: that one waits until the other ends.
        stage.cluster.apply(daemon_set(first, FIRST))
        wait("the first version waits", lambda: has_said(stage, FIRST, "waiting until it ends"))
        ends(stage, NEXT)
        wait("both agents", lambda: are_ready(stage))
        load.goes_on()
    what = "a second DaemonSet on the same nodes takes over, is taken back, comes again, and gives way to the first"
    return load.nothing_is_lost(what)


def pods_wait_for_an_agent(stage: Stage) -> str:
    """No node has an agent, and a kubelet is started anew meanwhile."""
    cluster = stage.cluster
    with Load(stage.uid("client"), stage.ip("server"), live=LIVE) as load, Wire(cluster.control.pid) as wire:
        placed(stage, "nowhere")
        wait("the agents are gone", lambda: len(stage.agents()) == stage.plane_pods)
        cluster.apply(apps.deployment("late", "node-1", apps.EAGER, stage.ip("server"), user="client"))
        why = "the ztun agent does not answer on"
        wait("an event says why", lambda: why in stage.events_of("late"), 120)
        cluster.restart_kubelet("node-1")
        load.goes_on()
        assert not stage.ready_pods("late", 1), "it runs"
        placed(stage, None)
        wait("both agents", lambda: are_ready(stage))
        wait("the pod has asked", lambda: stage.ready_pods("late", 1))
        load.goes_on()
    cluster.kubectl("-n", "demo", "delete", "deployment", "late")
    what = (
        "no agent, and a kubelet started anew: a new pod waits, its event says why, and it starts in the mesh"
    )
    said = load.nothing_is_lost(what)
    wire.shows_nothing()
    return said


def daemon_set(like: apps.Object, name: str, *variables: apps.Object) -> apps.Object:
    """One of another name, with more variables."""
    spec = copy.deepcopy(like["spec"])
    labels = {"app.kubernetes.io/name": name}
    spec["selector"] = {"matchLabels": labels}
    spec["template"]["metadata"] = {"labels": labels}
    spec["template"]["spec"]["containers"][0]["env"].extend(variables)
    metadata = {"name": name, "namespace": like["metadata"]["namespace"], "labels": labels}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec}


def starts(stage: Stage, made: apps.Object) -> None:
    stage.cluster.apply(made)
    name = made["metadata"]["name"]
    wait(f"{name} serves on each node", lambda: has_said(stage, name, "serving:"))


def ends(stage: Stage, name: str) -> None:
    stage.cluster.kubectl("-n", stage.namespace, "delete", "daemonset", name)
    wait(f"the pods of {name} are gone", lambda: not any(of(stage, name).values()))


def of(stage: Stage, name: str) -> dict[str, str]:
    """The pod of a DaemonSet on each node; empty: there is none."""
    pods = [pod for pod in stage.agents() if pod["metadata"]["name"].startswith(f"{name}-")]
    found = {pod["spec"].get("nodeName"): str(pod["metadata"]["name"]) for pod in pods}
    return {node: found.get(node, "") for node in stage.cluster.nodes}


def served_by(stage: Stage, name: str, words: str = "serving:") -> dict[str, int]:
    """How often its pod said so, on each node."""
    return {
        node: stage.cluster.log(node, pod).count(words) if pod else 0 for node, pod in of(stage, name).items()
    }


def has_said(stage: Stage, name: str, words: str) -> bool:
    return all(served_by(stage, name, words).values())


def is_more(now: dict[str, int], before: dict[str, int]) -> bool:
    return all(now[node] > before[node] for node in before)


def placed(stage: Stage, demo: str | None) -> None:
    """The agents on nodes with that label too, which none has; None: on all again."""
    change = {"spec": {"template": {"spec": {"nodeSelector": {"demo": demo}}}}}
    stage.cluster.kubectl(
        "-n", stage.namespace, "patch", "daemonset", FIRST, "--type=merge", "-p", json.dumps(change)
    )
