"""What the systemd unit of the agent says."""

from __future__ import annotations

import shlex
from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "ztun.service"


def settings() -> dict[str, list[str]]:
    """By their names, each as often as it is said."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def flags() -> dict[str, str]:
    """Those that the agent is started with, beside what the machine's own file says."""
    [command] = settings()["ExecStart"]
    _, _, *words = shlex.split(command)
    return {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
