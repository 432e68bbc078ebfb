"""How a command becomes the agent: settings checked, then execve(2) to an interpreter without its modules."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from agent import config
from agent.cli.strangers import strangers
from redirect import child

START = "agent.start"


def settings_of(flags: Mapping[str, str | None]) -> config.Config:
    """What an agent needs, of flags by name and of the environment. Raises ConfigError."""
    settings = config.from_environment(flags)
    if not settings.node:
        raise config.ConfigError("--node is missing: the name of this node, as in spec.nodeName of its pods")
    if not settings.root_cert:
        raise config.ConfigError(
            "--root-cert is missing: the root of the control plane, e.g. root.pem of the embedded one's --state-dir"
        )
    return settings


def become_agent(settings: config.Config, notes: Sequence[str] = ()) -> NoReturn:
    """Go on as the control process, under the same pid and name; `notes` are for its log. Raises OSError."""
    shown = Path("/proc/self/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    arguments = ["--options", json.dumps(config.as_texts(settings)), "--shown", json.dumps(shown)]
    arguments += ["--notes", json.dumps([*notes, *strangers(config.environment())])]
    command = child.command(START, *arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
