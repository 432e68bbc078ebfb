"""What the facts share: the cluster, what runs in it, and where ztun is installed from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.kubernetes import Kubernetes, annotation, is_ready, wait
from tests.cluster.services import Services
from tests.cluster.traffic import ask

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
    istiod: Path | None = None
    """The program of one, where there is one."""
    namespace: str = NAMESPACE
    """Where ztun is, with how many pods that are no agents."""
    plane_pods: int = 1

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
        pods = [pod for pod in self.cluster.pods("demo") if pod["metadata"]["labels"].get("app") in names]
        return bool(pods) and all(annotation(pod) == "enabled" for pod in pods)

    @property
    def is_under_istiod(self) -> bool:
        return not self.plane_pods

    def agents(self) -> list[Pod]:
        return self.cluster.pods(self.namespace)

    def agent(self, node: str) -> str:
        """Name of the agent's pod on a node; empty: there is none."""
        names = [str(pod["metadata"]["name"]) for pod in self.agents() if pod["spec"].get("nodeName") == node]
        return next((name for name in names if name.startswith("ztun-agent")), "")

    def restarts(self, app: str = "") -> int:
        pods = self.cluster.pods("demo", app)
        return sum(
            each["restartCount"] for pod in pods for each in pod["status"].get("containerStatuses") or []
        )

    def restarts_of_agents(self) -> int:
        statuses = [each for pod in self.agents() for each in pod["status"].get("containerStatuses") or []]
        return sum(each["restartCount"] for each in statuses)

    def is_done(self, job: str) -> bool:
        return bool(self.cluster.get("job", "-n", "demo", job)["status"].get("succeeded") == 1)

    def events_of(self, start: str) -> str:
        """What events say of objects whose names begin so."""
        events = self.cluster.api.items("/api/v1/namespaces/demo/events")
        said = [each for each in events if each["involvedObject"]["name"].startswith(start)]
        return " ".join(str(each["message"]) for each in said)

    def unanswered(self) -> dict[str, int]:
        """How often so far the pod whose kubelet asks every second was not answered, in each way."""
        statuses = self.pod("probed")["status"]["containerStatuses"]
        return {each["name"]: each["restartCount"] for each in statuses}

    def probed(self, before: dict[str, int]) -> str:
        """That each of its probes was answered since then."""
        wait("the probed pod is ready", lambda: self.ready_pods("probed", 1), 30)
        now = self.unanswered()
        assert now == before, f"probes that failed, before and now: {before}, {now}"
        return "liveness probes by HTTP, TCP and exec, each every second under STRICT, stay green"

    def ready_pods(self, app: str, count: int) -> bool:
        pods = self.cluster.pods("demo", app)
        return len(pods) == count and all(map(is_ready, pods))


def rendered(stage: Stage, directory: str) -> list[dict[str, Any]]:
    text = stage.cluster.kubectl("kustomize", str(ROOT / directory))
    return [each for each in yaml.safe_load_all(text) if each]


def point_at(documents: list[dict[str, Any]], address: str) -> None:
    for variable in environment(documents):
        if variable["name"] == "ZTUN_XDS_ADDRESS":
            variable["value"] = f"{address}:15012"


def environment(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """That of the agents, to be changed."""
    [daemon_set] = [each for each in documents if each["kind"] == "DaemonSet"]
    variables: list[dict[str, Any]] = daemon_set["spec"]["template"]["spec"]["containers"][0]["env"]
    return variables


def are_ready(stage: Stage) -> bool:
    pods = stage.agents()
    return len(pods) == len(stage.cluster.nodes) + stage.plane_pods and all(map(is_ready, pods))
