"""The patch that puts this image in ztunnel's place, over the DaemonSet of Istio's chart as it is."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
STOCK = ROOT / "tests" / "vectors" / "ztunnel" / "daemonset.yaml"
OURS = ROOT / "deploy" / "kubernetes" / "agent" / "daemonset.yaml"


def pod(daemonset: dict[str, Any]) -> dict[str, Any]:
    return daemonset["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def by(key: str, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows}


def test_arguments_variables_and_files_stay_as_they_are(patched_ztunnel: dict[str, Any]) -> None:
    stock = yaml.safe_load(STOCK.read_text())
    [before], [after] = pod(stock)["containers"], pod(patched_ztunnel)["containers"]
    for field in ("args", "env", "ports", "readinessProbe"):
        assert after[field] == before[field]
    mounts = by("mountPath", after["volumeMounts"])
    assert all(mounts[each["mountPath"]] == each for each in before["volumeMounts"])
    volumes = by("name", pod(patched_ztunnel)["volumes"])
    assert all(volumes[each["name"]] == each for each in pod(stock)["volumes"])


def test_it_has_what_our_own_daemonset_has_for_the_node(patched_ztunnel: dict[str, Any]) -> None:
    ours = yaml.safe_load(OURS.read_text())
    for field in ("hostNetwork", "hostPID", "dnsPolicy", "priorityClassName"):
        assert pod(patched_ztunnel)[field] == pod(ours)[field], field
    [mine], [theirs] = pod(ours)["containers"], pod(patched_ztunnel)["containers"]
    assert theirs["startupProbe"] == mine["startupProbe"]
    said, wanted = theirs["securityContext"], mine["securityContext"]
    assert (
        said["capabilities"] == wanted["capabilities"] and said["seccompProfile"] == wanted["seccompProfile"]
    )
    assert said["privileged"] is False and said["readOnlyRootFilesystem"] is True
    mounts, volumes = by("mountPath", theirs["volumeMounts"]), by("name", pod(patched_ztunnel)["volumes"])
    wanted = by("mountPath", mine["volumeMounts"])
    for path in ("/sys/fs/bpf", "/run/netns", "/run/ztun"):
        assert mounts[path] == wanted[path]
        [volume] = [each for each in pod(ours)["volumes"] if each["name"] == wanted[path]["name"]]
        assert volumes[volume["name"]] == volume


def test_no_pod_of_it_waits_for_a_port_that_the_one_before_has(patched_ztunnel: dict[str, Any]) -> None:
    assert patched_ztunnel["spec"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_image_is_of_this_version(patched_ztunnel: dict[str, Any]) -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert pod(patched_ztunnel)["containers"][0]["image"] == f"localhost/ztun:{setup['metadata']['version']}"
