"""`ztun control-plane status` beside a real control plane, alive and dead: first word, reasons, exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli import plane_status
from agent.doctor import plane_checks
from agent.doctor.check import Verdict
from tests.support.controlplane import deny, pod
from tests.support.labtraffic import until
from tests.support.patient import site_at

WEB = pod("web-0", "node-a", "10.10.0.5")
COMMAND = (sys.executable, "-m", "agent", "control-plane")


@contextmanager
def control_plane(tmp_path: Path, manifests: str) -> Iterator[Path]:
    """A process that serves this text; its state directory."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "all.yaml").write_text(manifests)
    arguments = (
        "--manifests",
        str(directory),
        "--state-dir",
        str(tmp_path / "state"),
        "--listen",
        "127.0.0.1:0",
    )
    with subprocess.Popen(
        [*COMMAND, *arguments, "--metrics-address", "off", "--status-out", str(tmp_path / "conditions.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().startswith("ready 127.0.0.1:")
            written = tmp_path / "state" / "status.json"  # it is ready before it has written that
            until(lambda: written.exists() and json.loads(written.read_text())["address"], "its address")
            (tmp_path / "pid").write_text(str(process.pid))
            yield tmp_path / "state"
        finally:
            process.kill()


def status(state_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "status", "--state-dir", str(state_dir), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_ready_and_then_dead(tmp_path: Path) -> None:
    with control_plane(tmp_path, WEB) as state_dir:
        done = status(state_dir)
        assert done.returncode == 0 and done.stdout.startswith(
            "READY addresses=1 policies=0 streams=0 refused=0"
        )
        assert done.stdout.count("\n") == 1
    done = status(state_dir)
    assert done.returncode == 4 and done.stdout.startswith("DEAD no control plane runs on ")
    done = status(tmp_path / "nowhere")
    assert done.returncode == 4 and "is it another --state-dir?" in done.stdout
    assert not (tmp_path / "nowhere").exists(), "asking makes nothing"
    (tmp_path / "empty").mkdir()
    done = status(tmp_path / "empty")
    assert (
        done.returncode == 4 and "has ever served from" in done.stdout and "the last one" not in done.stdout
    )


def test_one_that_is_stopped_is_dead_though_its_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane_status, "PATIENCE_S", 0.5)
    monkeypatch.setattr(plane_checks, "HANDSHAKE_S", 0.5)
    with control_plane(tmp_path, WEB) as state_dir:
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        said = plane_status.answer(state_dir)
        assert said["state"] == "DEAD" and "its process is stopped or hangs" in said["line"]
        address = json.loads((state_dir / "status.json").read_text())["address"]
        site = site_at(tmp_path, "i")
        roots = str(state_dir / "root.pem")
        site = replace(site, settings=replace(site.settings, xds_address=address, root_cert=roots))
        check = plane_checks.certificate(site)
        assert (
            check.verdict is Verdict.FAILED and f"{address} takes connections and says nothing" in check.words
        )
        os.kill(pid, signal.SIGCONT)
        assert status(state_dir).returncode == 0, "it goes on"


def test_json_has_one_shape_dead_or_alive(tmp_path: Path) -> None:
    with control_plane(tmp_path, WEB) as state_dir:
        alive = json.loads(status(state_dir, "-o", "json").stdout)
    for dead in (state_dir, tmp_path / "nowhere"):
        assert json.loads(status(dead, "-o", "json").stdout).keys() == alive.keys()


def test_what_is_refused_and_what_does_nothing_are_reasons(tmp_path: Path) -> None:
    text = WEB + deny("d").replace("action", "acton") + deny("a", action="AUDIT")
    text += "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"
    with control_plane(tmp_path, text) as state_dir:
        done = status(state_dir)
        assert done.returncode == 3
        head, refused, no_effect, warnings = done.stdout.splitlines()
        assert (
            warnings == f"  1 warning, shown by `ztun control-plane status --state-dir {state_dir} -o table`"
        )
        assert head.startswith(
            "DEGRADED addresses=1 policies=1 streams=0 refused=1 no-effect=1 warnings=1 listen=127.0.0.1:"
        )
        assert refused == (
            "  refused: all.yaml:11 (document 2): AuthorizationPolicy demo/d: spec.acton: unknown field;"
            " did you mean spec.action?; its targets are denied to everybody until it is mended"
        )
        assert no_effect.startswith(
            "  no effect: all.yaml:13 (document 3): AuthorizationPolicy demo/a: action AUDIT"
        )
        table = status(state_dir, "-o", "table")
        words = " ".join(table.stdout.split())
        assert "kind Deployment (apps/v1) is not used" in words and table.returncode == 3
        assert "refused AuthorizationPolicy demo/d all.yaml:11" in words
        assert "accepted with remarks AuthorizationPolicy demo/a all.yaml:13" in words
        assert "1 object accepted beside" in words
        assert max(map(len, table.stdout.splitlines()[1:])) <= 80
        assert words.count("AuthorizationPolicy demo/d") == 2, "as a reason, and with what came of it"
        answer = json.loads(status(state_dir, "-o", "json").stdout)
        assert (answer["state"], len(answer["reasons"]), answer["policies"]) == ("DEGRADED", 2, 1)
        assert answer["errors"][0]["object"] == "AuthorizationPolicy demo/d"


def test_what_keeps_its_last_good_form_is_told_from_what_is_refused(tmp_path: Path) -> None:
    with control_plane(tmp_path, WEB + deny("d")) as state_dir:
        manifests = tmp_path / "manifests" / "all.yaml"
        written = manifests.with_suffix(".new")
        written.write_text(WEB + deny("d").replace("action", "acton"))
        written.rename(manifests)
        head = until(
            lambda: (line := status(state_dir).stdout.splitlines()[0]).startswith("DEGRADED") and line,
            "refused",
        )
        assert " refused=1 kept=1 no-effect=0 " in head
        words = " ".join(status(state_dir, "-o", "table").stdout.split())
        assert "last good form kept AuthorizationPolicy demo/d" in words


def test_a_policy_for_an_account_that_nobody_has_is_counted_where_all_is_ready(tmp_path: Path) -> None:
    rules = "[{from: [{source: {principals: [cluster.local/ns/demo/sa/cilent]}}]}]"
    text = WEB + deny("a", action="ALLOW", rules=rules)
    with control_plane(tmp_path, text) as state_dir:
        done = status(state_dir)
        assert done.returncode == 0 and done.stdout.startswith("READY ") and " warnings=1 " in done.stdout
        (command,) = (line.split("`")[1] for line in done.stdout.splitlines() if "1 warning, " in line)
        named = status(state_dir, *command.split()[-2:]).stdout
        assert "no workload has the service account demo/cilent" in named


def test_a_policy_that_denies_more_than_it_says_is_not_said_to_do_nothing(tmp_path: Path) -> None:
    with control_plane(
        tmp_path, WEB + deny("a", rules="[{to: [{operation: {paths: [/admin]}}]}]")
    ) as state_dir:
        head, reason = status(state_dir).stdout.splitlines()
        assert head.startswith("DEGRADED ") and " no-effect=0 denies-more=1 " in head
        assert reason.startswith("  denies more: all.yaml:") and "AuthorizationPolicy demo/a" in reason


def test_conditions_are_shown_and_written_for_others(tmp_path: Path) -> None:
    service = """---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: demo, labels: {istio.io/use-waypoint: wp}}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
"""
    with control_plane(tmp_path, WEB + service + deny("d")) as state_dir:
        said = json.loads(status(state_dir, "-o", "json").stdout)["conditions"]
        assert {(row["object"], row["condition"], row["status"], row["reason"]) for row in said} == {
            ("Service demo/s", "istio.io/WaypointBound", "False", "WaypointIsNotReady"),
            ("AuthorizationPolicy demo/d", "ZtunnelAccepted", "True", "Accepted"),
        }
        table = status(state_dir, "-o", "table").stdout
        assert "WaypointIsNotReady" in table and "ZtunnelAccepted" not in table, "what is met is not shown"
        items = json.loads((tmp_path / "conditions.json").read_text())["items"]
        assert [item["kind"] for item in items] == ["AuthorizationPolicy", "Service"]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_status_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    done = status(tmp_path)
    assert done.returncode == 1 and "status.json is damaged" in done.stderr


def test_who_only_asks_loads_no_control_plane() -> None:
    """It took three times as long, most of it gRPC."""
    asked = "import sys; from agent.cli import control_plane; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
