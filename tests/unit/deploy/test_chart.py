"""The chart against the plain manifests: the same objects, and values that do what they say or are refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agent import config
from agent.cli.main import ztun
from tests.support import helm
from tests.support.helm import CHART, ROOT, Failed, template

PLAIN = ROOT / "deploy" / "kubernetes"
Raw = dict[str, Any]
VALUES: Raw = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Raw = json.loads((CHART / "values.schema.json").read_text())
needs_helm = pytest.mark.skipif(helm.HELM is None, reason=helm.MISSING)
KEEP = {"helm.sh/resource-policy": "keep"}
HOOK = {"helm.sh/hook": "post-delete", "helm.sh/hook-delete-policy": "before-hook-creation"}
OF_ISTIOD = {"istiod": {"address": "istiod.istio-system.svc:15012"}}
SAID_OTHERWISE = {
    "node", "pod_name", "pod_namespace", "instance_ip", "pod_source", "cni_conf_dir", "cni_bin_dir", "cni_own_file",
    "exclude_namespaces", "xds_address", "ca_address", "root_cert", "ca_root_cert", "token_file", "report_enrolled",
    "server_name", "cluster_id", "start_patience_s", "connect_timeout_s", "drain_deadline_s", "honest_connect",
    "succession_s", "take_over_s", "log_level", "log_format",
}  # fmt: skip
"""Options that have a value of their own, or are the chart's."""
FIXED = {
    "instance",
    "run_dir",
    "kubeconfig",
    "crl_path",
    "kubernetes_api",
    "admin_address",
    "readiness_address",
    "zds_socket",
}
"""Options that must be as they are: volumes (some files have none), probes and the plugin count on them."""


def key(each: Raw) -> tuple[str, str]:
    return each["kind"], each["metadata"]["name"]


def by_key(objects: list[Raw]) -> dict[tuple[str, str], Raw]:
    found = {key(each): each for each in objects}
    assert len(found) == len(objects)
    return found


def plain(*parts: str, namespace: str = helm.NAMESPACE) -> list[Raw]:
    """Objects of the manifests, in their namespace, as kustomize puts them there."""
    found = []
    for part in parts:
        for path in sorted((PLAIN / part).glob("*.yaml")) if (PLAIN / part).is_dir() else [PLAIN / part]:
            found += [each for each in yaml.safe_load_all(path.read_text()) if each and "metadata" in each]
    for each in found:
        if not each["kind"].startswith(("Cluster", "Namespace", "CustomResource")):
            each["metadata"]["namespace"] = namespace
    return found


def unordered(value: Any) -> Any:
    """Volumes and their mounts have no order."""
    if isinstance(value, dict):
        keyed = {"volumes": "name", "volumeMounts": "mountPath"}
        return {
            name: sorted(map(unordered, each), key=lambda row, at=keyed[name]: row[at])  # type: ignore[misc]
            if name in keyed and isinstance(each, list)
            else unordered(each)
            for name, each in value.items()
        }
    return [unordered(each) for each in value] if isinstance(value, list) else value


def without_annotations(each: Raw, expected: Raw) -> Raw:
    each = copy.deepcopy(each)
    assert each["metadata"].pop("annotations") == expected
    return each


def agent_of(objects: list[Raw]) -> Raw:
    return by_key(objects)["DaemonSet", "ztun-agent"]


def variables(objects: list[Raw]) -> dict[str, str]:
    [container] = agent_of(objects)["spec"]["template"]["spec"]["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(set(names)) == len(names), "a name is said once"
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


# -- without Helm


def leaves(node: Raw, path: str = "") -> Iterator[tuple[str, Raw]]:
    """Values that are taken as a whole: those with a description."""
    for name, each in node["properties"].items():
        at = f"{path}.{name}".lstrip(".")
        if "description" in each:
            yield at, each
        else:
            assert each["additionalProperties"] is False, f"{at} would take a name that nobody reads"
            yield from leaves(each, at)


def default_of(path: str) -> Any:
    found: Any = VALUES
    for part in path.split("."):
        found = found[part]
    return found


def test_the_schema_knows_every_value_and_no_other() -> None:
    assert SCHEMA["additionalProperties"] is False
    of_schema = {path for path, _ in leaves(SCHEMA)} - {"global"}

    def of_values(node: Raw, path: str = "") -> Iterator[str]:
        for name, each in node.items():
            at = f"{path}.{name}".lstrip(".")
            if at in of_schema:
                yield at
            else:
                assert isinstance(each, dict), f"{at} is not in the schema"
                yield from of_values(each, at)

    assert set(of_values(VALUES)) == of_schema


def test_the_document_has_every_value_with_its_default() -> None:
    text = (ROOT / "docs" / "OPERATIONS.md").read_text()
    table = re.search(r"^\| value \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [
        f"| `{path}` | `{json.dumps(default_of(path))}` | {each['description']} |"
        for path, each in leaves(SCHEMA)
        if path != "global"
    ]
    assert table and table[1].splitlines() == rows


def test_every_option_of_the_agent_is_a_value_or_fixed() -> None:
    names = SCHEMA["properties"]["agent"]["properties"]["options"]["propertyNames"]["enum"]
    others = (SAID_OTHERWISE | FIXED) & config.options().keys()
    assert {name.replace("-", "_") for name in names} == config.options().keys() - others


def test_the_chart_is_of_this_version() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == setup["metadata"]["version"]


# -- with it


@needs_helm
def test_by_default_it_makes_the_objects_of_the_manifests(tmp_path: Path) -> None:
    made = by_key(template(tmp_path))
    wanted = by_key(plain("crds.yaml", "agent", "control-plane", "uninstall"))
    assert made.keys() == wanted.keys()
    for name, each in made.items():
        if name[0] == "CustomResourceDefinition":
            each = without_annotations(each, KEEP)
        if name == ("DaemonSet", "ztun-uninstall"):
            each = without_annotations(each, HOOK)
        assert unordered(each) == unordered(wanted[name]), name


@needs_helm
def test_under_an_istiod_it_makes_the_agent_of_the_manifests(tmp_path: Path) -> None:
    """The overlay is three patches; they are applied here as they read."""
    made = by_key(template(tmp_path, OF_ISTIOD, "istio-system"))
    wanted = by_key(plain("agent", "uninstall", namespace="istio-system"))
    account = wanted.pop(("ServiceAccount", "ztun-agent"))
    account["metadata"]["name"] = "ztunnel"
    wanted[key(account)] = account
    wanted["ClusterRoleBinding", "ztun-agent"]["subjects"] = [
        {"kind": "ServiceAccount", "name": "ztunnel", "namespace": "istio-system"}
    ]
    overlay = yaml.safe_load((PLAIN / "istiod" / "kustomization.yaml").read_text())
    [patch] = [each["patch"] for each in overlay["patches"] if each["target"]["kind"] == "DaemonSet"]
    patched = yaml.safe_load(patch)["spec"]["template"]["spec"]
    pod = wanted["DaemonSet", "ztun-agent"]["spec"]["template"]["spec"]
    pod["serviceAccountName"] = patched["serviceAccountName"]
    said = {each["name"]: each for each in pod["containers"][0]["env"]}
    said |= {each["name"]: each for each in patched["containers"][0]["env"]}
    assert made.keys() == wanted.keys()
    for name, each in made.items():
        if name == ("DaemonSet", "ztun-uninstall"):
            each = without_annotations(each, HOOK)
        if name == ("DaemonSet", "ztun-agent"):
            [container] = each["spec"]["template"]["spec"]["containers"]
            assert {row["name"]: row for row in container.pop("env")} == said
            wanted[name]["spec"]["template"]["spec"]["containers"][0].pop("env")
        assert unordered(each) == unordered(wanted[name]), name


@needs_helm
def test_helm_finds_nothing_to_say_against_it(tmp_path: Path) -> None:
    helm.run("lint", "--strict", str(CHART), directory=tmp_path)


@needs_helm
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"imagee": {}}, "imagee"),
        ({"agent": {"honest": "all"}}, "honest"),
        ({"agent": {"honestConnect": "some"}}, "honestConnect"),
        ({"agent": {"options": {"mesh-cidr": "10.0.0.0/8"}}}, "mesh-cidr"),
        ({"agent": {"options": {"xds-address": "x:1"}}}, "xds-address"),
        ({"agent": {"cni": {"confDir": "etc/cni"}}}, "confDir"),
        ({"agent": {"resources": {"limit": {}}}}, "limit"),
        ({"agent": {"drainDeadlineSeconds": 25}}, "terminationGracePeriodSeconds has to be 10 above"),
        ({"agent": {"update": {"maxUnavailable": 0}}}, "maxUnavailable"),
        ({"agent": {"excludedNamespaces": ["Kube"]}}, "excludedNamespaces"),
        ({"istiod": {"address": "https://istiod:15012"}}, "address"),
        ({"istiod": {"address": "istiod"}}, "address"),
        ({"controlPlane": {"seccompProfile": {"kind": "x"}}}, "kind"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_nobody_would_read_is_refused(tmp_path: Path, values: Raw, says: str) -> None:
    with pytest.raises(Failed) as caught:
        template(tmp_path, values)
    assert says in str(caught.value)


@needs_helm
def test_values_reach_the_agent(tmp_path: Path) -> None:
    values = {
        "clusterId": "east",
        "agent": {
            "excludedNamespaces": ["kube-system", "monitoring", "mesh"],
            "honestConnect": "pods",
            "connectTimeoutSeconds": 12.5,
            "drainDeadlineSeconds": 60,
            "successionSeconds": 45,
            "terminationGracePeriodSeconds": 90,
            "logLevel": "debug",
            "logFormat": "json",
            "options": {"stream-window-bytes": 8388608, "mesh-cidrs": "10.0.0.0/8", "workers": 3},
            "cni": {"confDir": "/etc/kubernetes/cni", "binDir": "/usr/libexec/cni", "ownFile": True},
        },
    }
    objects = template(tmp_path, values, "mesh")
    said = variables(objects)
    settings = config.from_environment({"node": "n1"}, said)
    assert settings.cluster_id == "east" and settings.honest_connect == "pods"
    assert settings.exclude_namespaces == ("kube-system", "monitoring", "mesh")
    assert (settings.connect_timeout_s, settings.drain_deadline_s, settings.succession_s) == (12.5, 60, 45)
    assert (settings.log_level, settings.log_format) == ("debug", "json")
    assert (settings.stream_window_bytes, settings.workers) == (8388608, 3)
    assert [str(each) for each in settings.mesh_cidrs] == ["10.0.0.0/8"]
    assert str(settings.cni_conf_dir) == "/etc/kubernetes/cni" and settings.cni_own_file
    pod = agent_of(objects)["spec"]["template"]["spec"]
    volumes = {each["name"]: each.get("hostPath", {}).get("path") for each in pod["volumes"]}
    mounts = {each["mountPath"]: volumes[each["name"]] for each in pod["containers"][0]["volumeMounts"]}
    for path in ("/etc/kubernetes/cni", "/usr/libexec/cni"):
        assert mounts[path] == path, "the plugin is told paths of the node"
    assert {each["image"] for each in containers(objects)} == {"localhost/ztun:0.1.0"}
    plane = by_key(objects)["Deployment", "ztun-control-plane"]["spec"]["template"]["spec"]["containers"][0]
    assert "--cluster-id=east" in plane["args"]
    assert "--server-name=ztun-control-plane.mesh.svc" in plane["args"]
    assert said["ZTUN_XDS_ADDRESS"] == "ztun-control-plane.mesh.svc:15012"


def containers(objects: list[Raw]) -> list[Raw]:
    pods = [
        each["spec"]["template"]["spec"] for each in objects if each["kind"] in ("DaemonSet", "Deployment")
    ]
    return [each for pod in pods for each in (*pod.get("initContainers", ()), *pod["containers"])]


@needs_helm
def test_values_reach_every_pod(tmp_path: Path) -> None:
    free = {
        "nodeSelector": {"mesh": "yes"},
        "tolerations": [{"key": "mesh", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "mine",
        "podLabels": {"team": "mesh"},
        "podAnnotations": {"note": "x"},
        "resources": {"requests": {"cpu": 1}},
    }
    values = {
        "image": {"repository": "r.example/ztun", "tag": "9", "pullPolicy": "Always", "pullSecrets": ["one"]},
        "agent": free,
        "controlPlane": free | {"seccompProfile": {"type": "Unconfined"}, "trustDomain": "corp.example"},
    }
    objects = template(tmp_path, values)
    assert {each["image"] for each in containers(objects)} == {"r.example/ztun:9"}
    for name in (("DaemonSet", "ztun-agent"), ("Deployment", "ztun-control-plane")):
        spec = by_key(objects)[name]["spec"]["template"]
        assert spec["spec"]["imagePullSecrets"] == [{"name": "one"}]
        for field in ("tolerations", "affinity", "priorityClassName"):
            assert spec["spec"][field] == free[field]
        assert spec["spec"]["nodeSelector"].items() >= {"mesh": "yes"}.items()
        assert spec["metadata"]["labels"]["team"] == "mesh"
        assert spec["metadata"]["annotations"] == {"note": "x"}
        [container] = spec["spec"]["containers"]
        assert container["imagePullPolicy"] == "Always"
        assert container["resources"]["requests"]["cpu"] == 1
    for container in containers(objects):
        if "args" in container:
            # What is no option or command is refused before anybody is helped.
            done = CliRunner().invoke(ztun, [*container["args"], "--help"])
            assert done.exit_code == 0, done.output
    plane = by_key(objects)["Deployment", "ztun-control-plane"]["spec"]["template"]["spec"]
    assert plane["securityContext"]["seccompProfile"] == {"type": "Unconfined"}
    assert "--trust-domain=corp.example" in plane["containers"][0]["args"]


@needs_helm
def test_agents_are_privileged_where_that_is_asked_for(tmp_path: Path) -> None:
    [container] = agent_of(template(tmp_path, {"agent": {"privileged": True}}))["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}


@needs_helm
def test_agents_have_the_filter_of_system_calls_that_is_asked_for(tmp_path: Path) -> None:
    profile = {"type": "Localhost", "localhostProfile": "mesh.json"}
    objects = template(tmp_path, {"agent": {"seccompProfile": profile}})
    [container] = agent_of(objects)["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["seccompProfile"] == profile


@needs_helm
@pytest.mark.parametrize(
    ("update", "becomes"),
    [
        ({"maxUnavailable": "10%"}, {"maxUnavailable": "10%"}),
        ({"maxSurge": 1}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"maxSurge": "25%"}, {"maxSurge": "25%", "maxUnavailable": 0}),
    ],
)
def test_nodes_are_updated_as_asked(tmp_path: Path, update: Raw, becomes: Raw) -> None:
    objects = template(tmp_path, {"agent": {"update": update}})
    assert agent_of(objects)["spec"]["updateStrategy"]["rollingUpdate"] == becomes
    assert variables(objects).get("ZTUN_TAKE_OVER_S") == ("120" if "maxSurge" in update else None)


@needs_helm
def test_with_a_surge_an_agent_has_to_be_ready_for_longer_than_the_old_one_may_answer_its_probe(
    tmp_path: Path,
) -> None:
    with pytest.raises(Failed, match="minReadySeconds has to be 10 or more"):
        template(tmp_path, {"agent": {"update": {"maxSurge": 1, "minReadySeconds": 0}}})


def test_two_agents_of_a_node_can_be_alive_at_once() -> None:
    """With hostNetwork a port that is named is the node's, and the scheduler gives it to one pod alone."""
    pod = agent_of(plain("agent"))["spec"]["template"]["spec"]
    assert pod["hostNetwork"] and not any("ports" in each for each in pod["containers"])
    assert not re.search(r"(?i)\b(host|container)?ports:", (CHART / "templates" / "agent.yaml").read_text())


@needs_helm
def test_what_is_switched_off_is_away(tmp_path: Path) -> None:
    values = {"agent": {"cni": {"enabled": False}}, "crds": {"install": False}, "uninstallHook": False}
    objects = template(tmp_path, values)
    kinds = {each["kind"] for each in objects}
    assert "CustomResourceDefinition" not in kinds and ("DaemonSet", "ztun-uninstall") not in by_key(objects)
    assert not any(name.startswith("ZTUN_CNI") for name in variables(objects))
    pod = agent_of(objects)["spec"]["template"]["spec"]
    assert not any("cni" in each["name"] for each in (*pod["volumes"], *pod["containers"][0]["volumeMounts"]))
    kept = template(tmp_path, {"crds": {"keep": False}})
    assert not any(
        "annotations" in each["metadata"] for each in kept if each["kind"] == "CustomResourceDefinition"
    )


@needs_helm
def test_an_istiod_of_another_name_is_known_by_it(tmp_path: Path) -> None:
    values = {"istiod": {"address": "istiod.mesh.svc:15012"}, "agent": {"serviceAccount": "node-proxy"}}
    objects = template(tmp_path, values, "mesh")
    settings = config.from_environment({"node": "n1"}, variables(objects))
    assert (settings.xds_address, settings.server_name) == ("istiod.mesh.svc:15012", "istiod.mesh.svc")
    assert not settings.report_enrolled
    assert ("ServiceAccount", "node-proxy") in by_key(objects)
    assert not any(each["kind"] in ("Deployment", "Service") for each in objects)
