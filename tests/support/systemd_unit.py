"""What the systemd units say."""

from __future__ import annotations

import shlex
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = DIRECTORY / "ztun.service"
PLANE_UNIT = DIRECTORY / "ztun-control-plane.service"
ENVIRONMENT = DIRECTORY / "agent.env.example"


def settings(unit: Path = UNIT) -> dict[str, list[str]]:
    """By their names, each as often as it is said."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def flags(unit: Path = UNIT) -> dict[str, str]:
    """Those that it is started with, beside what the machine's own file says."""
    [command] = settings(unit)["ExecStart"]
    _, _, *words = shlex.split(command)
    return {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
