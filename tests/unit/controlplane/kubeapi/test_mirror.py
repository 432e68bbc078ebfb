"""What of an object reaches the readers of manifests, and that files say what the API says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.controlplane.kubeapi.mirror import Mirror
from agent.controlplane.kubeapi.stored import KINDS, Kind, Stored, stored
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import Pod
from agent.kubernetes.reflector import Gone, Listed, Put, Unusable
from agent.model.limits import Limits
from tests.support import kube

BY_NAME = {kind.name: kind for kind in KINDS}
POD, POLICY = BY_NAME["Pod"], BY_NAME["AuthorizationPolicy"]


def raw(name: str = "web", **status: Any) -> dict[str, Any]:
    made = kube.pod(name, address="10.10.0.5", uid="u1", labels={"app": "web"})
    made["metadata"]["resourceVersion"] = "77"
    made["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    made["status"] |= status
    return made


def read(kind: Kind, body: dict[str, Any]) -> tuple[Any, ...]:
    made = parse("f", stored(kind, body).text)
    assert not made.refused, made.refused
    return made.objects


def test_a_pod_is_read_as_the_api_server_has_it() -> None:
    body = raw(conditions=[{"type": "Ready", "status": "True", "lastProbeTime": None}])
    body["spec"]["containers"] = [
        {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}
    ]
    [pod] = read(POD, body)
    assert isinstance(pod, Pod)
    assert (pod.node, pod.ready, pod.meta.labels) == ("n1", True, {"app": "web"})
    assert [port.name for port in pod.ports] == ["http"]
    [pod] = read(POD, raw())
    assert not pod.ready, "what the API does not say of a stored pod is not filled in"


def test_what_means_nothing_to_a_mesh_changes_no_document() -> None:
    later = raw(startTime="2026-01-01T00:00:00Z", containerStatuses=[{"restartCount": 3}])
    later["metadata"] |= {"resourceVersion": "99", "managedFields": []}
    later["metadata"]["annotations"] = {
        "cni.example.org/podIP": "10.10.0.5",
        "kubernetes.io/config.seen": "now",
    }
    earlier = raw()
    earlier["metadata"]["annotations"] = {"cni.example.org/podIP": ""}
    assert stored(POD, later).text == stored(POD, earlier).text


def test_what_means_something_on_an_object_is_kept() -> None:
    body = raw()
    said = {"ambient.istio.io/redirection": "enabled", "networking.istio.io/exportTo": "."}
    said["ztun.io/limits"] = "connections=3"
    body["metadata"]["annotations"] = {**said, "other": "x"}
    [pod] = read(POD, body)
    assert pod.meta.annotations == said
    assert pod.limits == Limits(connections=3)


def test_a_policy_is_kept_whole_so_that_what_nobody_knows_refuses_it() -> None:
    body = {
        "metadata": {"name": "p", "namespace": "demo", "uid": "u", "annotations": {"a": "b"}},
        "spec": {"action": "ALLOW", "ruels": []},
        "status": {"conditions": []},
    }
    made = parse("f", stored(POLICY, body).text)
    assert made.refused and "ruels" in str(made.refused[0].errors[0])


@pytest.mark.parametrize("meta", [None, {}, {"name": "x"}, {"uid": "x"}, []])
def test_what_cannot_be_told_from_others_is_named(meta: Any) -> None:
    with pytest.raises(Unusable, match="Pod"):
        stored(POD, {"metadata": meta})


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize("value", [None, [], "x", 7, {"containers": 3, "conditions": "x"}])
def test_a_part_of_another_shape_is_left_to_the_reader(part: str, value: Any) -> None:
    text = stored(POD, {**raw(), part: value}).text
    assert parse("f", text) is not None


def test_files_follow_and_the_directory_says_nothing_that_is_not_so(tmp_path: Path) -> None:
    home = tmp_path / "api"
    (home / "Pod" / "demo").mkdir(parents=True)
    (home / "Pod" / "demo" / "old.json").write_text("{}")
    mirror = Mirror(home)
    one = stored(POD, raw())
    mirror.hear(POD, [Put(one)])
    [file] = (f for f in home.rglob("*") if f.is_file())
    assert (file.relative_to(home), file.read_text()) == (Path("Pod/demo/web.json"), one.text)
    before = file.stat().st_mtime_ns
    mirror.hear(POD, [Put(one)])
    assert file.stat().st_mtime_ns == before, "it is as it was"
    mirror.hear(POD, [Gone("demo", "web", "u1")])
    assert not file.exists()


def test_it_is_known_which_files_have_changed_since_they_were_asked_for(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "api")
    one = stored(POD, raw())
    assert mirror.hear(POD, [Put(one)]), "whoever asks for them has to be told"
    assert not mirror.hear(POD, [Put(stored(POD, raw("other")))]), "and was told"
    assert mirror.take_touched() == {"Pod/demo/web.json", "Pod/demo/other.json"}
    assert not mirror.hear(POD, [Put(one), Listed()]), "it is as it was"
    assert not mirror.take_touched()
    assert mirror.hear(POD, [Gone("demo", "web", "u1")])
    assert mirror.take_touched() == {"Pod/demo/web.json"}


def test_names_longer_than_a_file_may_have_stay_apart(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "api")
    names = ["a" * 253, "a" * 252 + "b"]
    for number, name in enumerate(names):
        mirror.hear(POD, [Put(Stored("demo", name, f"u{number}", json.dumps(number)))])
    files = list(tmp_path.rglob("*.json"))
    assert sorted(f.read_text() for f in files) == ["0", "1"]
    mirror.hear(POD, [Gone("demo", names[0], "u0")])
    assert [f.read_text() for f in tmp_path.rglob("*.json")] == ["1"]


def test_it_is_whole_when_every_kind_was_listed(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "api")
    for kind in KINDS:
        assert not mirror.is_whole and kind.name in mirror.missing
        mirror.hear(kind, [Listed()])
    assert mirror.is_whole


def test_a_node_is_that_of_the_very_pod(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "api")
    mirror.hear(POD, [Put(stored(POD, raw()))])
    assert mirror.node_of("demo", "web", "u1") == "n1"
    assert mirror.node_of("demo", "web", "u2") is None
    assert mirror.node_of("demo", "other", "u1") is None
