"""The manifests against the code: every option they set is one, every right that is used is given, and no other."""

from __future__ import annotations

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agent import config
from agent.cli.main import ztun
from agent.controlplane.kubeapi.authority import ROOT_KEY, ROOT_MAP, SECRET
from agent.controlplane.kubeapi.callers import AUDIENCE
from agent.controlplane.kubeapi.stored import KINDS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy" / "kubernetes"
FILES = sorted(path for path in DEPLOY.rglob("*.yaml") if path.name != "kustomization.yaml")
TREES = ("", "istiod", "uninstall", "istiod/uninstall")
FIELD_VALUES = {
    "spec.nodeName": "n1",
    "metadata.name": "p",
    "metadata.namespace": "s",
    "status.podIP": "192.0.2.1",
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def pod_of(part: str, kind: str) -> dict[str, Any]:
    [found] = [each for each in documents(DEPLOY / part / "daemonset.yaml") if each["kind"] == kind]
    return found["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def pods() -> list[dict[str, Any]]:
    return [
        each["spec"]["template"]["spec"]
        for path in FILES
        for each in documents(path)
        if each["kind"] in ("DaemonSet", "Deployment")
    ]


def containers() -> list[dict[str, Any]]:
    return [each for pod in pods() for each in (*pod.get("initContainers", ()), *pod["containers"])]


def rights(part: str) -> set[tuple[str, str, str]]:
    """Group, resource and verb."""
    return {
        (group, resource, verb)
        for each in documents(DEPLOY / part / "rbac.yaml")
        if each["kind"] in ("ClusterRole", "Role")
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def agent_variables() -> dict[str, str]:
    [agent] = pod_of("agent", "DaemonSet")["containers"]
    return {
        each["name"]: each["value"]
        if "value" in each
        else FIELD_VALUES[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in agent["env"]
    }


def test_the_agent_takes_every_variable_and_is_told_what_it_needs() -> None:
    variables = agent_variables()
    assert {name for name in variables if name.removeprefix("ZTUN_").lower() not in config.options()} == set()
    settings = config.from_environment({}, variables)
    assert (settings.node, settings.pod_source) == ("n1", "kubernetes")
    assert "ztun-system" in settings.exclude_namespaces, "what it needs itself must start without it"


def test_the_files_that_variables_name_are_mounted() -> None:
    variables = agent_variables()
    pod = pod_of("agent", "DaemonSet")
    [agent] = pod["containers"]
    mounts = {each["mountPath"]: each["name"] for each in agent["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    root, token = Path(variables["ZTUN_ROOT_CERT"]), Path(variables["ZTUN_TOKEN_FILE"])
    assert (volumes[mounts[str(root.parent)]]["configMap"]["name"], root.name) == (ROOT_MAP, ROOT_KEY)
    [source] = volumes[mounts[str(token.parent)]]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == AUDIENCE
    assert source["serviceAccountToken"]["path"] == token.name
    for directory in ("ZTUN_CNI_CONF_DIR", "ZTUN_CNI_BIN_DIR"):
        assert volumes[mounts[variables[directory]]]["hostPath"]["path"] == variables[directory], (
            "the plugin is told paths of the node"
        )
    assert volumes[mounts["/run/ztun"]]["hostPath"]["path"] == "/run/ztun", "the plugin asks there"


def test_there_is_time_for_the_drain() -> None:
    settings = config.from_environment({}, agent_variables())
    pod = pod_of("agent", "DaemonSet")
    assert pod["terminationGracePeriodSeconds"] >= settings.drain_deadline_s + 10


@pytest.mark.parametrize("container", containers(), ids=lambda each: each["name"])
def test_every_command_line_is_one(container: dict[str, Any]) -> None:
    arguments = container.get("args")
    if arguments is None:
        assert container["command"] == ["sleep", "infinity"]
        return
    # What is no option or command is refused before anybody is helped.
    done = CliRunner().invoke(ztun, [*arguments, "--help"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("container", containers(), ids=lambda each: each["name"])
def test_no_container_may_more_than_it_must(container: dict[str, Any]) -> None:
    said = container["securityContext"]
    assert said["readOnlyRootFilesystem"] is True
    mounts = container.get("volumeMounts", ())
    tells_the_node = any(each.get("mountPropagation") == "Bidirectional" for each in mounts)
    assert said.get("privileged", False) is tells_the_node, "only who mounts for the node is privileged"
    added = said.get("capabilities", {}).get("add", [])
    if added:
        assert said["capabilities"]["drop"] == ["ALL"], "what runtimes give unasked is not named"
        assert said["seccompProfile"] == {"type": "RuntimeDefault"}
    if not tells_the_node and not added:
        assert said["allowPrivilegeEscalation"] is False


def test_the_agent_may_what_it_does_and_nothing_else() -> None:
    assert rights("agent") == {
        *(("", kind, verb) for kind in ("pods", "namespaces") for verb in ("get", "list", "watch")),
        ("", "pods/status", "patch"),
        ("", "events", "create"),
    }


def test_the_control_plane_may_what_it_does_and_nothing_else() -> None:
    groups = {kind.resource: kind.api_version.rpartition("/")[0] for kind in KINDS}
    assert rights("control-plane") == {
        *((group, kind, verb) for kind, group in groups.items() for verb in ("get", "list", "watch")),
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("", "secrets", "get"),
        ("", "secrets", "create"),
        ("", "configmaps", "get"),
        ("", "configmaps", "create"),
        ("", "configmaps", "update"),
    }
    named = {
        name
        for each in documents(DEPLOY / "control-plane" / "rbac.yaml")
        if each["kind"] == "Role"
        for rule in each["rules"]
        if set(rule["verbs"]) != {"create"}
        for name in rule["resourceNames"]
    }
    assert named == {SECRET, ROOT_MAP}


def test_every_image_is_of_this_version() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert {each["image"] for each in containers()} == {f"localhost/ztun:{setup['metadata']['version']}"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("tree", TREES)
def test_kustomize_makes_whole_objects_of_it(tree: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / tree)], capture_output=True, text=True, timeout=60, check=True
    )
    made = [each for each in yaml.safe_load_all(done.stdout) if each]
    namespaces = {each["metadata"]["namespace"] for each in made if "namespace" in each["metadata"]}
    assert namespaces == {"istio-system" if tree.startswith("istiod") else "ztun-system"}
    accounts = {each["metadata"]["name"] for each in made if each["kind"] == "ServiceAccount"}
    used = {
        each["spec"]["template"]["spec"].get("serviceAccountName")
        for each in made
        if each["kind"] in ("DaemonSet", "Deployment")
    } - {None}
    subjects = {
        (subject["namespace"], subject["name"]) for each in made for subject in each.get("subjects", ())
    }
    assert used == accounts
    assert subjects == {(namespace, account) for account in accounts for namespace in namespaces}


def test_the_image_copies_what_there_is() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in dockerfile if line.startswith("COPY") and "--from" not in line]
    names = [name for line in copied for name in line]
    assert names and all((ROOT / name).exists() for name in names)
    let_through = {
        line[1:]
        for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert let_through == set(names)
