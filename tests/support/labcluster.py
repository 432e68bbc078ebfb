"""A fake API server that labs have on node-a, with a process on its node for each pod it knows."""

from __future__ import annotations

import json
import uuid
from contextlib import ExitStack
from pathlib import Path

from agent.lab.topology import PodPlace, Topology
from redirect.netns import entered
from tests.support import kube
from tests.support.cgroups import process_of
from tests.support.kube import FakeApi

MODE, REDIRECTION = "istio.io/dataplane-mode", "ambient.istio.io/redirection"
PODS = ("client-a", "server-a", "client-b", "server-b", "outsider-a")


class LabCluster:
    """`prepare` once the nodes are there; `stack` ends what it made."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.api = FakeApi(directory)
        self.kubeconfig = directory / "kubeconfig"
        self.uids: dict[str, str] = {}
        self.root = f"ztun-{uuid.uuid4().hex[:8]}"
        self.stack = ExitStack()
        self.lab: Topology | None = None

    def prepare(self, lab: Topology) -> None:
        self.lab = lab
        node = lab.nodes["node-a"]
        self.api.address = str(node.addresses[0])
        self.start()
        self.stack.callback(self.api.stop)
        cluster = {
            "server": f"https://{self.api.address}:{self.api.port}",
            "certificate-authority": str(self.api.ca_file),
            "tls-server-name": "localhost",
        }
        config = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"tokenFile": str(self.api.token_file)}}],
        }
        self.kubeconfig.write_text(json.dumps(config))
        self.api.create(kube.namespace("demo"))
        for name in PODS:
            self.add(lab.pods[f"demo/{name}"])

    def start(self) -> None:
        assert self.lab is not None
        with entered(self.lab.nodes["node-a"].netns):
            self.api.start()

    def add(self, pod: PodPlace) -> str:
        """The pod in the API, and its process on the node; its uid."""
        uid = self.uids[pod.name] = str(uuid.uuid4())
        self.stack.enter_context(process_of(uid, pod.netns, self.root))
        raw = kube.pod(pod.name, node=pod.node, uid=uid, serviceAccountName=pod.name.partition("-")[0])
        raw["status"]["podIPs"] = [{"ip": str(address)} for address in pod.addresses]
        self.api.create(raw)
        return uid

    def label(self, value: str | None) -> None:
        self.api.change("namespaces", "demo", metadata={"labels": {MODE: value}})  # type: ignore[dict-item]

    def says(self, name: str) -> str | None:
        annotations: dict[str, str] = self.api.get("pods", name, "demo")["metadata"]["annotations"]
        return annotations.get(REDIRECTION)

    @property
    def flags(self) -> dict[str, str]:
        """What agents need to follow it."""
        return {"pod-source": "kubernetes", "kubeconfig": str(self.kubeconfig)}
