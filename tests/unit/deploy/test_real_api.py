"""What a real API server says of the manifests, the chart and the patch: it takes them, and loses no field of them.

A server that does not know a field drops it in silence; so what comes back is compared with what was sent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import helm
from tests.support.kube_real import RealServer

BINARIES = "ZTUN_KUBE_BIN"
ROOT = Path(__file__).parents[3]
Raw = dict[str, Any]
PLURALS = {
    "Namespace": "api/v1/namespaces",
    "ServiceAccount": "api/v1/namespaces/{namespace}/serviceaccounts",
    "Service": "api/v1/namespaces/{namespace}/services",
    "DaemonSet": "apis/apps/v1/namespaces/{namespace}/daemonsets",
    "Deployment": "apis/apps/v1/namespaces/{namespace}/deployments",
    "Role": "apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
EVERYTHING: Raw = {
    "image": {"pullSecrets": ["one"], "tag": "9"},
    "clusterId": "east",
    "agent": {
        "honestConnect": "all",
        "logLevel": "debug",
        "options": {"stream-window-bytes": 8388608, "workers": 3},
        "cni": {"ownFile": True},
        "update": {"maxUnavailable": "10%"},
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
        "podLabels": {"team": "mesh"},
        "podAnnotations": {"prometheus.io/port": "15020"},
    },
    "controlPlane": {
        "nodeSelector": {"mesh": "yes"},
        "tolerations": [{"key": "mesh", "operator": "Exists", "effect": "NoSchedule"}],
        "seccompProfile": {"type": "Localhost", "localhostProfile": "mesh.json"},
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    directory = os.environ.get(BINARIES)
    if directory is None:
        pytest.skip(f"{BINARIES} names no directory with kube-apiserver and etcd")
    with RealServer(Path(directory), tmp_path_factory.mktemp("kube")) as found:
        for name in (helm.NAMESPACE, "istio-system"):
            found.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield found


def kustomized(tree: Path) -> list[Raw]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    done = subprocess.run(
        ["kubectl", "kustomize", str(tree)], capture_output=True, text=True, timeout=60, check=True
    )
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def is_taken(server: RealServer, objects: list[Raw]) -> None:
    assert objects
    for each in objects:
        namespace = each["metadata"].get("namespace", "")
        path = "/" + PLURALS[each["kind"]].format(namespace=namespace) + "?dryRun=All"
        if each["kind"] == "Namespace":
            path, method = path.replace("?", f"/{each['metadata']['name']}?"), "PUT"
        else:
            method = "POST"
        loses_nothing(each, server.ask(method, path, each), f"{each['kind']} {each['metadata']['name']}")


def loses_nothing(sent: Any, back: Any, where: str) -> None:
    if isinstance(sent, dict):
        for name, value in sent.items():
            # Before Kubernetes 1.22 nobody surges.
            if value not in ({}, [], None) and (name, value) != ("maxSurge", 0):
                assert isinstance(back, dict) and name in back, f"the server drops {where}.{name}"
                loses_nothing(value, back[name], f"{where}.{name}")
    elif isinstance(sent, list):
        assert len(sent) == len(back), where
        for index, (one, other) in enumerate(zip(sent, back, strict=True)):
            loses_nothing(one, other, f"{where}[{index}]")
    else:
        assert str(sent) == str(back), where


@pytest.mark.parametrize("tree", ["", "istiod", "uninstall", "istiod/uninstall"])
def test_the_manifests_are_taken_whole(server: RealServer, tree: str) -> None:
    is_taken(server, kustomized(ROOT / "deploy" / "kubernetes" / tree))


@pytest.mark.skipif(helm.HELM is None, reason=helm.MISSING)
@pytest.mark.parametrize(
    ("values", "namespace"),
    [
        ({}, helm.NAMESPACE),
        (EVERYTHING, helm.NAMESPACE),
        ({"istiod": {"address": "istiod.istio-system.svc:15012"}}, "istio-system"),
        ({"agent": {"cni": {"enabled": False}}}, helm.NAMESPACE),
    ],
    ids=["defaults", "everything", "istiod", "no plugin"],
)
def test_the_chart_is_taken_whole(server: RealServer, tmp_path: Path, values: Raw, namespace: str) -> None:
    is_taken(server, helm.template(tmp_path, values, namespace))


@pytest.mark.skipif(helm.HELM is None, reason=helm.MISSING)
def test_a_release_is_installed_changed_and_removed(server: RealServer, tmp_path: Path) -> None:
    """What Helm keeps of it is its own objects; what it must not take along stays."""

    def by_helm(*arguments: str) -> None:
        helm.run(*arguments, "--namespace", "mesh", directory=tmp_path, kubeconfig=server.kubeconfig())

    sets = "apis/apps/v1/namespaces/mesh/daemonsets"
    by_helm("install", "ztun", str(helm.CHART), "--create-namespace")
    agent = server.ask("GET", f"/{sets}/ztun-agent")
    assert agent["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    by_helm("upgrade", "ztun", str(helm.CHART), "--set", "agent.honestConnect=all")
    [container] = server.ask("GET", f"/{sets}/ztun-agent")["spec"]["template"]["spec"]["containers"]
    assert {"name": "ZTUN_HONEST_CONNECT", "value": "all"} in container["env"]
    by_helm("uninstall", "ztun", "--cascade", "background")
    left = [each["metadata"]["name"] for each in server.ask("GET", f"/{sets}")["items"]]
    assert left == ["ztun-uninstall"]
    roles = server.ask("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
    assert not [each for each in roles if each["metadata"]["name"].startswith("ztun")]
    kinds = server.ask("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
    assert {each["metadata"]["name"] for each in kinds} == {
        "authorizationpolicies.security.istio.io",
        "peerauthentications.security.istio.io",
        "connectionlimits.ztun.io",
    }


def test_the_patched_ztunnel_is_taken_whole(server: RealServer, patched_ztunnel: Raw) -> None:
    is_taken(server, [patched_ztunnel])
