"""Ways to the API that cannot be used: what each says, and which file it names."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agent.config import build, from_environment
from agent.kubernetes.access import AccessError, of_kubeconfig, of_pod
from agent.kubernetes.selectors import SelectorError
from agent.kubernetes.settings import of_settings
from tests.support import kube
from tests.support.kube_watch import following


def config(**parts: Any) -> kube.Raw:
    cluster = {"server": "https://127.0.0.1:1"} | parts.pop("cluster", {})
    user = {"token": "t"} | parts.pop("user", {})
    return {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    } | parts


def used(path: Path) -> None:
    access = of_kubeconfig(path)
    access.context()
    access.headers()


ROWS = [
    ("no file", None, "cannot be read"),
    ("no yaml", "{", "is no YAML"),
    ("a list", [], "is not a kubeconfig"),
    ("empty", "", "is not a kubeconfig"),
    ("no context", config(**{"current-context": ""}), "no current-context; `kubectl config use-context"),
    ("another context", config(**{"current-context": "y"}), "contexts has no 'y'"),
    ("no such cluster", config(clusters=[]), "clusters has no 'c'"),
    ("plain http", config(cluster={"server": "http://127.0.0.1:1"}), "it takes https://HOST:PORT"),
    ("path", config(cluster={"server": "https://rancher/k8s/clusters/x"}), "a path in it is not supported"),
    ("proxy", config(cluster={"proxy-url": "http://p"}), "proxy-url of the cluster is not supported"),
    ("exec", config(user={"exec": {"command": "aws"}}), "exec of the user is not supported: use a token"),
    ("password", config(user={"username": "a"}), "username of the user is not supported"),
    (
        "base64",
        config(cluster={"certificate-authority-data": "%"}),
        "certificate-authority-data is no PEM in base64",
    ),
    ("no ca file", config(cluster={"certificate-authority": "none.crt"}), "none.crt, cannot be read"),
    ("no token file", config(user={"tokenFile": "none"}), "none, cannot be read"),
    (
        "no client certificate",
        config(user={"client-certificate": "none"}),
        "client certificate .* cannot be used",
    ),
]


@pytest.mark.parametrize(("case", "content", "words"), ROWS, ids=[row[0] for row in ROWS])
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, case: str, content: Any, words: str) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AccessError, match=words):
        used(path)


def test_what_the_kubelet_mounts_is_named_when_it_is_not_there(tmp_path: Path) -> None:
    access = of_pod("10.0.0.1:443", tmp_path)
    with pytest.raises(AccessError, match=r"ca\.crt, cannot be read"):
        access.context()
    with pytest.raises(AccessError, match=r"token, cannot be read"):
        access.headers()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "neither --kubeconfig nor --kubernetes-api is given"),
        ({"node": "", "kubernetes_api": "10.0.0.1:443"}, "--node is empty"),
        (
            {"kubernetes_api": "10.0.0.1:443", "enablement_selectors": "- {"},
            "--enablement-selectors: while parsing",
        ),
        (
            {"kubernetes_api": "10.0.0.1:443", "enablement_selectors": "{}"},
            "--enablement-selectors: it takes a list",
        ),
    ],
)
def test_options_that_can_never_be_are_refused_at_the_start(options: dict[str, str], words: str) -> None:
    with pytest.raises((AccessError, SelectorError), match=words):
        of_settings(build({"node": "n1", "pod_source": "kubernetes"} | options))


def test_a_kubeconfig_that_is_put_right_is_used_from_then_on(fake: kube.FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "config"
    way, _ = of_settings(build({"node": "n1", "pod_source": "kubernetes", "kubeconfig": str(path)}))
    there = type("There", (), {"access": property(lambda _: way())})()
    with following(there, "n1") as seen:
        seen.until(lambda: f"--kubeconfig {path} cannot be read" in seen.problem)
        cluster = {"server": f"https://127.0.0.1:{fake.port}", "certificate-authority": fake.ca_file.name}
        path.write_text(json.dumps(config(cluster=cluster, user={"token": kube.TOKEN})))
        seen.until(lambda: seen.is_listed and not seen.problem)


def test_a_pod_of_a_cluster_finds_the_api_by_what_the_kubelet_says() -> None:
    variables = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert from_environment({}, variables).kubernetes_api == "[fd00::1]:443"
    named = variables | {"ZTUN_KUBERNETES_API": "10.0.0.1:6443"}
    assert from_environment({}, named).kubernetes_api == "10.0.0.1:6443"
    assert from_environment({"kubernetes_api": "10.0.0.2:1"}, named).kubernetes_api == "10.0.0.2:1"
    assert from_environment({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).kubernetes_api == ""


def test_labels_that_select_are_those_of_the_options() -> None:
    options = {
        "node": "n1",
        "pod_source": "kubernetes",
        "kubernetes_api": "10.0.0.1:443",
        "exclude_namespaces": "a,b",
        "pod_namespace": "mesh",
    }
    text = "[{podSelector: {matchLabels: {in: mesh}}}]"
    _, rules = of_settings(build(options | {"enablement_selectors": text}))
    assert rules.excluded == {"a", "b"} and rules.system_namespace == "mesh"
    (enablement,) = rules.enablements
    assert enablement.matches({"in": "mesh"}, {}) and not enablement.matches({}, {"in": "mesh"})


@pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "files"])
def test_a_kubeconfig_leads_to_its_server(fake: kube.FakeApi, tmp_path: Path, is_inline: bool) -> None:
    cluster: kube.Raw = {"server": f"https://127.0.0.1:{fake.port}"}
    if is_inline:
        cluster["certificate-authority-data"] = base64.b64encode(fake.ca_file.read_bytes()).decode()
        user = {"token": kube.TOKEN, "tokenFile": ""}
    else:
        cluster["certificate-authority"] = fake.ca_file.name
        user = {"tokenFile": fake.token_file.name, "token": "another"}
    path = tmp_path / "config"
    path.write_text(json.dumps(config(cluster=cluster, user=user)))
    there = type("There", (), {"access": of_kubeconfig(path)})()
    with following(there, "n1") as seen:
        seen.until(lambda: seen.is_listed)
        assert not seen.problem


def test_a_key_inside_of_a_kubeconfig_is_used_from_memory(tmp_path: Path) -> None:
    _, both = kube.server_certificate()
    text = base64.b64encode(both).decode()
    path = tmp_path / "config"
    path.write_text(json.dumps(config(user={"client-certificate-data": text, "client-key-data": text})))
    access = of_kubeconfig(path)
    assert access.context().get_ca_certs() is not None
    assert [each.name for each in tmp_path.iterdir()] == ["config"]


def test_ipv6_servers_are_written_with_brackets(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(json.dumps(config(cluster={"server": "https://[fd00::1]:6443"})))
    assert of_kubeconfig(path).server == "https://[fd00::1]:6443"
