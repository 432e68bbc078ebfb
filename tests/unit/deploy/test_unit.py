"""The systemd units: systemd takes them as they are, their options are those of what they run, and it is found."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent import config
from agent.cli.control_plane import control_plane
from tests.support.systemd_unit import ENVIRONMENT, PLANE_UNIT, UNIT, flags, settings

COMMAND = "/usr/local/bin/ztun"


@pytest.mark.parametrize("unit", [UNIT, PLANE_UNIT], ids=lambda unit: unit.stem)
def test_systemd_has_no_complaint(tmp_path: Path, unit: Path) -> None:
    """Its command stands in for by one that is there: that is all it cannot know."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(COMMAND, sys.executable))
    done = subprocess.run(
        [verify, "verify", "--recursive-errors=no", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_its_options_are_the_agents() -> None:
    program, what, *_ = shlex.split(settings()["ExecStart"][0])
    assert (program, what) == (COMMAND, "agent")
    built = config.build({name.replace("-", "_"): value for name, value in flags().items()})
    assert built.succession_s == built.start_patience_s == 60.0


def test_workers_outlive_the_agent() -> None:
    """What would end them, or have nobody find them again."""
    unit = settings()
    assert unit["KillMode"] == ["process"] and unit["OOMPolicy"] == ["continue"]
    assert not unit.keys() & {
        "RuntimeDirectory",
        "PrivateTmp",
        "PrivateMounts",
        "ProtectSystem",
        "ProtectHome",
    }


@pytest.mark.parametrize("unit", [UNIT, PLANE_UNIT], ids=lambda unit: unit.stem)
def test_a_usage_error_is_said_once_and_not_for_ever(unit: Path) -> None:
    """2: what is given makes no sense, and will not the next time. All else is tried again."""
    said = settings(unit)
    assert (said["Restart"], said["RestartPreventExitStatus"]) == (["always"], ["2"])


def test_the_control_plane_may_write_where_its_state_is() -> None:
    program, what, *_ = shlex.split(settings(PLANE_UNIT)["ExecStart"][0])
    assert (program, what) == (COMMAND, "control-plane")
    given = flags(PLANE_UNIT)
    assert {f"--{name}" for name in given} <= {each for p in control_plane.params for each in p.opts}
    assert [given["state-dir"]] == [f"/var/lib/{name}" for name in settings(PLANE_UNIT)["StateDirectory"]]


def test_the_example_is_what_the_agent_needs_beside_its_unit() -> None:
    """It names the files that the control plane's unit makes."""
    lines = [line for line in ENVIRONMENT.read_text().splitlines() if not line.startswith("#")]
    given = dict(line.split("=", 1) for line in lines if line)
    assert given.keys() == {"ZTUN_NODE", "ZTUN_ROOT_CERT", "ZTUN_TOKEN_FILE"}
    state = flags(PLANE_UNIT)["state-dir"]
    assert given["ZTUN_ROOT_CERT"] == f"{state}/root.pem"
    assert given["ZTUN_TOKEN_FILE"] == f"{state}/tokens/{given['ZTUN_NODE']}"
    named = {name.removeprefix("ZTUN_").lower(): value for name, value in given.items()}
    assert config.build(named).node == given["ZTUN_NODE"]
