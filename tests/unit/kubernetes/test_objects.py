"""Pods and namespaces out of whatever JSON an API may send: read, or named as unusable, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.objects import namespace_of, pod_of
from agent.kubernetes.reflector import Unusable
from agent.model.address import parse_ip
from tests.support import kube


def test_everything_that_counts_of_a_pod() -> None:
    raw = kube.pod("web", labels={"a": "b"}, uid="u1", serviceAccountName="sa", phase="Pending")
    raw["metadata"]["resourceVersion"] = "7"
    raw["status"]["podIPs"] = [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]
    raw["metadata"]["annotations"] = {
        "ambient.istio.io/redirection": "enabled",
        "sidecar.istio.io/status": "{}",
    }
    pod = pod_of(raw)
    assert (pod.namespace, pod.name, pod.uid, pod.version) == ("demo", "web", "u1", "7")
    assert (pod.service_account, dict(pod.labels), pod.phase) == ("sa", {"a": "b"}, "Pending")
    assert pod.addresses == (parse_ip("10.0.0.1"), parse_ip("fd00::1"))
    assert (
        pod.redirection == "enabled" and pod.has_sidecar and not pod.is_terminal and not pod.is_host_network
    )


def test_a_pod_is_little_more_than_its_names_when_it_is_made() -> None:
    pod = pod_of({"metadata": {"name": "web", "namespace": "demo", "uid": "u1"}, "spec": {}})
    assert (pod.service_account, pod.phase, pod.addresses, pod.redirection) == ("default", "", (), None)
    assert (pod.cgroup_uid, dict(pod.labels)) == ("u1", {})


def test_a_static_pods_control_groups_have_another_uid_than_its_mirror() -> None:
    raw = kube.pod("web", uid="u1", annotations={"kubernetes.io/config.hash": "0123"})
    assert (pod_of(raw).uid, pod_of(raw).cgroup_uid) == ("u1", "0123")


def test_an_older_status_has_one_address_only() -> None:
    raw = kube.pod("web", uid="u1")
    raw["status"] = {"podIP": "10.0.0.1"}
    assert pod_of(raw).addresses == (parse_ip("10.0.0.1"),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metadata": None}, "a pod has no metadata"),
        ({"metadata": {"name": "web", "namespace": "demo"}}, "pod demo/web has no metadata.uid"),
        ({"metadata": {"name": "web", "uid": "u"}}, "pod None/web has no metadata.namespace"),
        ({"spec": None}, "pod demo/web has no spec"),
        ({"status": []}, "pod demo/web has no status"),
        (
            {"status": {"podIPs": [{"ip": "10.0.0"}]}},
            "pod demo/web: status.podIPs: '10.0.0' is not an IP address",
        ),
        ({"status": {"podIP": "fe80::1%eth0"}}, "pod demo/web: status.podIPs: .* zone"),
    ],
)
def test_what_cannot_be_used_names_the_pod_and_the_field(change: kube.Raw, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        pod_of(kube.pod("web", uid="u1") | change)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    [
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "uid",
        "labels",
        "annotations",
        "podIPs",
        "podIP",
        "phase",
        "ip",
    ]
)


@given(
    st.recursive(_JSON, lambda inner: st.dictionaries(_FIELDS, inner, max_size=6), max_leaves=12), st.data()
)
def test_any_json_is_a_pod_or_named(value: Any, data: st.DataObject) -> None:
    raw = kube.pod("web", uid="u1")
    part = data.draw(st.sampled_from(["metadata", "spec", "status"]))
    raw[part] = raw[part] | value if isinstance(value, dict) else value
    for read in (pod_of, namespace_of):
        try:
            read(raw)
        except Unusable as error:
            assert str(error)
