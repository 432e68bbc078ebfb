"""A real istiod beside a lab: on node-a, with a real API server that knows its pods, and nothing more of a cluster.

Nobody runs pods here: they are written into the API as a kubelet would have said them. The agents of the lab have it
for their control plane, by tokens of the pods that they would run in.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agent.lab.agents import CONTROL_PLANE_PORT, LabMesh
from agent.lab.topology import Topology
from redirect.netns import entered
from tests.cluster import newer_api
from tests.cluster.istiod import ENVIRONMENT, NAMESPACE
from tests.support.kube_real import ADMIN, RealServer
from tests.support.labtraffic import until

ROOT = Path(__file__).parents[2]
Raw = dict[str, Any]
REDIRECTION = "ambient.istio.io/redirection"
API_PORT, HTTP_PORT = 8001, 8080
"""On loopback of node-a, where nothing else of a lab listens."""
START_S = 120.0
GATEWAY_API = "gateway.networking.k8s.io"
SECURITY_API = "security.istio.io"


class Cluster:
    """The API server of a lab's node-a, asked from outside its network."""

    def __init__(self, lab: Topology, binaries: Path, directory: Path) -> None:
        self._netns = lab.nodes["node-a"].netns
        directory.mkdir()
        with entered(self._netns):
            self.server = RealServer(binaries, directory)

    def start(self) -> None:
        with entered(self._netns):
            self.server.__enter__()

    def stop(self) -> None:
        self.server.__exit__()

    def ask(self, method: str, path: str, body: Raw | None = None, kind: str = "application/json") -> Raw:
        with entered(self._netns):
            return self.server.ask(method, path, body, kind)

    def create(self, raw: Raw) -> Raw:
        """With its status, where it has one."""
        made = self.ask("POST", place(raw), raw)
        if raw.get("status") and raw["kind"] != "Namespace":
            self.patch(f"{place(raw)}/{raw['metadata']['name']}/status", {"status": raw["status"]})
        return made

    def patch(self, path: str, change: Raw) -> Raw:
        return self.ask("PATCH", path, change, "application/merge-patch+json")

    def delete(self, raw: Raw) -> None:
        self.ask("DELETE", f"{place(raw)}/{raw['metadata']['name']}?gracePeriodSeconds=0")


@dataclass
class IstiodMesh(LabMesh):
    """Agents under an istiod. `istiod` is the program, `kube` the directory with kube-apiserver (and etcd)."""

    istiod: Path = Path()
    kube: Path = Path()
    environment: dict[str, str] = field(default_factory=dict)
    _cluster: Cluster | None = None
    _istiod: subprocess.Popen[bytes] | None = None

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None, "it is not started"
        return self._cluster

    def start_control_plane(self) -> None:
        self._cluster = Cluster(self.topology, self.kube, self.topology.journal.directory / "api")
        self.cluster.start()
        for group, kind, plural in (
            (GATEWAY_API, "Gateway", "gateways"),
            (GATEWAY_API, "GatewayClass", "gatewayclasses"),
        ):
            self.cluster.create(definition(group, kind, plural))
        # Istio's base chart brings the kinds of policy; these are the same two.
        for raw in _objects(ROOT / "deploy" / "kubernetes" / "crds.yaml"):
            self.cluster.create(raw)
        self._know_the_lab()
        node = self.topology.nodes["node-a"]
        self.topology.processes.start(
            "newer-api",
            node.netns,
            [
                *(sys.executable, newer_api.__file__, str(API_PORT), f"127.0.0.1:{self.cluster.server.port}"),
                *(str(self.cluster.server.ca_file), ADMIN),
            ],
        )
        self.start_istiod()
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        (self.state_dir / "root.pem").write_text(self.root())
        (self.state_dir / "tokens").mkdir(mode=0o700)
        for name in self.topology.nodes:
            (self.state_dir / "tokens" / name).write_text(self._token(name))

    def down(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()
        super().down()

    def start_istiod(self) -> None:
        node = self.topology.nodes["node-a"]
        kubeconfig = self.topology.journal.directory / "istiod.kubeconfig"
        kubeconfig.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
            "contexts: [{name: x, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
            f'clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{API_PORT}"}}}}]\n'
        )
        self._istiod = self.topology.processes.start(
            "istiod",
            node.netns,
            [
                str(self.istiod),
                *("discovery", f"--kubeconfig={kubeconfig}", "--domain=cluster.local"),
                *(f"--httpAddr=127.0.0.1:{HTTP_PORT}", "--grpcAddr=127.0.0.1:15010"),
                *(
                    f"--secureGRPCAddr={node.addresses[0]}:{CONTROL_PLANE_PORT}",
                    "--monitoringAddr=127.0.0.1:15014",
                ),
                "--httpsAddr=127.0.0.1:15017",
            ],
            env={
                **ENVIRONMENT,
                "PATH": os.environ["PATH"],
                "HOME": str(self.topology.journal.directory),
                # Nobody makes waypoints here: what a test says of one is not to be written over.
                "PILOT_ENABLE_GATEWAY_API_STATUS": "false",
                **self.environment,
            },
        )
        until(lambda: self.debug("/ready")[0] == 200, "istiod is ready", START_S)

    def stop_istiod(self) -> None:
        assert self._istiod is not None
        self._istiod.kill()
        self._istiod.wait()

    def debug(self, path: str) -> tuple[int, str]:
        """What istiod's own pages say; 0: nobody answers."""
        try:
            with entered(self.topology.nodes["node-a"].netns):
                connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=10)
                connection.connect()
            connection.request("GET", path)
            answer = connection.getresponse()
            said = answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        connection.close()
        return said

    def root(self) -> str:
        """The certificate of its CA, as it publishes it."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"

        def found() -> str:
            maps = {each["metadata"]["name"]: each for each in self.cluster.ask("GET", path)["items"]}
            return str(maps.get("istio-ca-root-cert", {}).get("data", {}).get("root-cert.pem", ""))

        return until(found, "istiod's root is in the API")

    def enroll(self, *arguments: Any, **options: Any) -> Raw:
        """As ever, and what the agent would write into the API by itself where it followed it."""
        answer = super().enroll(*arguments, **options)
        pod = arguments[0]
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        self.cluster.patch(path, {"metadata": {"annotations": {REDIRECTION: "enabled"}}})
        return answer

    def _know_the_lab(self) -> None:
        create = self.cluster.create
        create(named("Namespace", NAMESPACE))
        create(named("ServiceAccount", "ztunnel", NAMESPACE))
        objects = _objects(self.manifests)
        for raw in objects:
            if raw["kind"] == "Namespace":
                create(raw)
        pods = [raw for raw in objects if raw["kind"] == "Pod"]
        for account in {(raw["spec"]["serviceAccountName"], raw["metadata"]["namespace"]) for raw in pods}:
            create(named("ServiceAccount", *account))
        for name, node in self.topology.nodes.items():
            create(named("Node", name))
            address = str(node.addresses[0])
            create(a_pod(f"ztunnel-{name}", NAMESPACE, name, "ztunnel", {"app": "ztunnel"}, address))
        for raw in pods:
            meta, spec = raw["metadata"], raw["spec"]
            addresses = [each["ip"] for each in raw["status"]["podIPs"]]
            create(
                a_pod(
                    meta["name"],
                    meta["namespace"],
                    spec["nodeName"],
                    spec["serviceAccountName"],
                    meta["labels"],
                    *addresses,
                    ports=spec["containers"][0]["ports"],
                )
            )
        for raw in objects:
            if raw["kind"] == "Service":
                create(of_one_family(raw))

    def _token(self, node: str) -> str:
        """As a kubelet mounts it: bound to the pod, for Istio's CA."""
        name = f"ztunnel-{node}"
        pod = self.cluster.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": pod["metadata"]["uid"]}
        made = self.cluster.ask(
            "POST",
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/ztunnel/token",
            {"spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600, "boundObjectRef": bound}},
        )
        return str(made["status"]["token"])


def place(raw: Raw) -> str:
    """The path that objects of this kind are created at."""
    group = raw.get("apiVersion", "v1")
    base = f"/api/{group}" if group == "v1" else f"/apis/{group}"
    plural = {"AuthorizationPolicy": "authorizationpolicies", "GatewayClass": "gatewayclasses"}.get(
        raw["kind"], f"{raw['kind'].lower()}s"
    )
    namespace = raw["metadata"].get("namespace")
    return f"{base}/namespaces/{namespace}/{plural}" if namespace else f"{base}/{plural}"


def named(kind: str, name: str, namespace: str | None = None) -> Raw:
    where = {} if namespace is None else {"namespace": namespace}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **where}}


def a_pod(
    name: str,
    namespace: str,
    node: str,
    account: str,
    labels: dict[str, str],
    *addresses: str,
    ports: list[Raw] | None = None,
) -> Raw:
    """One that runs and is ready."""
    container = {"name": "main", "image": "none", "ports": ports or []}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "serviceAccountName": account, "containers": [container]},
        "status": {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def of_one_family(service: Raw) -> Raw:
    """As an API server has it that serves one family."""
    spec = dict(service["spec"])
    spec["clusterIP"] = spec.pop("clusterIPs")[0]
    return {**service, "spec": spec}


def definition(group: str, kind: str, plural: str) -> Raw:
    """A kind of the Gateway API that takes anything."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {
                "api-approved.kubernetes.io": "unapproved, for tests",
                "gateway.networking.k8s.io/bundle-version": "v1.4.0",
            },
        },
        "spec": {
            "group": group,
            "scope": "Cluster" if kind == "GatewayClass" else "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == "v1",
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
                for version in ("v1", "v1beta1")
            ],
        },
    }


def _objects(path: Path) -> list[Raw]:
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    return [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]
