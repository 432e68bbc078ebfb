"""What a lab shall contain, read from Kubernetes manifests: pods with their nodes and addresses, Services.

Pure but for `read` and `write`. Knows only what wiring and NAT need; what the manifests mean for the mesh is the
control plane's business. `generate` makes manifests for any number of pods per node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.model.address import IP, AddressError, parse_ip

NODES = ("node-a", "node-b")
QUICKSTART = Path(__file__).parent / "manifests"
"""The manifests of the lab that is built when nobody says otherwise."""


class LabError(Exception):
    """The lab cannot be built or found as asked; the text names the culprit."""


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    name: str
    node: str
    addresses: tuple[IP, ...]
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    """Named container ports."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    port: int
    target: int | str
    node_port: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    namespace: str
    name: str
    vips: tuple[IP, ...]
    ports: tuple[ServicePort, ...]
    selector: Mapping[str, str]
    is_local_only: bool = False
    """externalTrafficPolicy: Local, for its node ports."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    pods: tuple[Pod, ...]
    services: tuple[Service, ...] = ()

    def endpoints(self, service: Service, port: ServicePort, family: int) -> list[tuple[Pod, IP, int]]:
        """(pod, address, port) for each pod behind a Service's port, of IP version `family`."""
        found = []
        for pod in self.pods:
            if pod.namespace != service.namespace or not service.selector.items() <= pod.labels.items():
                continue
            target = pod.ports.get(port.target) if isinstance(port.target, str) else port.target
            if target is not None:
                found += [(pod, ip, target) for ip in pod.addresses if ip.version == family]
        return found


def read(directory: Path) -> Blueprint:
    """The blueprint of every `*.yaml` and `*.yml` in a directory."""
    documents: list[dict[str, Any]] = []
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        try:
            loaded = list(yaml.safe_load_all(path.read_text()))
        except yaml.YAMLError as error:
            raise LabError(f"{path} is not YAML: {error}") from error
        documents += [document for document in loaded if isinstance(document, dict)]
    if not documents:
        raise LabError(f"no manifests in {directory}: want *.yaml files with Pods")
    return parse(documents)


def parse(documents: Iterable[Mapping[str, Any]]) -> Blueprint:
    """The Pods and Services of manifests; other kinds do not matter here."""
    pods: list[Pod] = []
    services: list[Service] = []
    for document in documents:
        if document.get("kind") == "Pod":
            pods.append(_pod(document))
        elif document.get("kind") == "Service":
            services.append(_service(document))
    _check_unique(pods)
    return Blueprint(tuple(pods), tuple(service for service in services if service.vips and service.selector))


def _pod(document: Mapping[str, Any]) -> Pod:
    metadata, spec = document.get("metadata") or {}, document.get("spec") or {}
    key = f"{metadata.get('namespace', 'default')}/{metadata.get('name')}"
    node = spec.get("nodeName")
    if node not in NODES:
        raise LabError(f"pod {key}: spec.nodeName is {node!r}, the lab's nodes are {' and '.join(NODES)}")
    addresses = [entry.get("ip") for entry in (document.get("status") or {}).get("podIPs") or ()]
    if not addresses:
        raise LabError(f"pod {key}: status.podIPs is missing; the lab gives pods the addresses written there")
    ports = {
        port["name"]: port["containerPort"]
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if "name" in port
    }
    return Pod(
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        node=node,
        addresses=tuple(_ip(key, address) for address in addresses),
        labels=metadata.get("labels") or {},
        ports=ports,
    )


def _service(document: Mapping[str, Any]) -> Service:
    metadata, spec = document.get("metadata") or {}, document.get("spec") or {}
    key = f"{metadata.get('namespace', 'default')}/{metadata.get('name')}"
    vips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return Service(
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        vips=tuple(_ip(key, vip) for vip in vips if vip and vip != "None"),
        ports=tuple(
            ServicePort(port["port"], port.get("targetPort", port["port"]), port.get("nodePort"))
            for port in spec.get("ports") or ()
            if port.get("protocol", "TCP") == "TCP"
        ),
        selector=spec.get("selector") or {},
        is_local_only=spec.get("externalTrafficPolicy") == "Local",
    )


def _ip(key: str, text: object) -> IP:
    try:
        return parse_ip(str(text))
    except AddressError as error:
        raise LabError(f"{key}: {error}") from error


def _check_unique(pods: Iterable[Pod]) -> None:
    owners: dict[object, str] = {}
    for pod in pods:
        for thing in (pod.key, *pod.addresses):
            if thing in owners:
                raise LabError(f"{thing} belongs to pod {owners[thing]} and to pod {pod.key}")
            owners[thing] = pod.key


def generate(pods_per_node: int, namespace: str = "lab", port: int = 8080) -> list[dict[str, Any]]:
    """Manifests of a namespace with that many pods on each node and one Service in front of all of them."""
    if not 1 <= pods_per_node <= 1000:
        raise LabError(f"--pods {pods_per_node}: want 1 to 1000 pods per node")
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "all", "namespace": namespace},
            "spec": {
                "clusterIPs": ["10.96.77.1", "fd00:10:96:77::1"],
                "selector": {"lab": "all"},
                "ports": [{"name": "tcp", "port": port, "targetPort": port, "nodePort": 30080}],
            },
        },
    ]
    for side, node in enumerate(NODES):
        for number in range(1, pods_per_node + 1):
            documents += _generated_pod(namespace, node, side, number, port)
    return documents


def _generated_pod(namespace: str, node: str, side: int, number: int, port: int) -> list[dict[str, Any]]:
    name = f"{node.removeprefix('node-')}{number}"
    # Addresses end in 1 to 250, as pod ranges of real nodes leave out the first and the last.
    high, low = divmod(number - 1, 250)
    addresses = [f"10.{64 + side}.{high}.{low + 1}", f"fd00:10:{64 + side}::{number:x}"]
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"lab": "all", "app": name}},
        "spec": {
            "nodeName": node,
            "serviceAccountName": name,
            "containers": [{"name": "probe", "ports": [{"containerPort": port}]}],
        },
        "status": {"podIPs": [{"ip": address} for address in addresses]},
    }
    return [account, pod]


def write(documents: Iterable[Mapping[str, Any]], path: Path) -> None:
    """The manifests as one YAML file."""
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
