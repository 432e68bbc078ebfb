"""Ways to the API that cannot be used: what each says, and which file it names."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agent.kubernetes.access import AccessError, of_kubeconfig, of_pod
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
        of_kubeconfig(path)


def test_outside_of_a_cluster_the_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="neither --kubeconfig nor --kubernetes-api"):
        of_pod("", tmp_path)
    with pytest.raises(AccessError, match=r"ca\.crt, cannot be read"):
        of_pod("10.0.0.1:443", tmp_path)


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
