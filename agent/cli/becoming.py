"""How a command becomes the agent: settings checked, then execve(2) to an interpreter without its modules."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from agent import config
from agent.given_options import without_effect
from redirect import child

START = "agent.start"


def become_agent(settings: config.Config, notes: Sequence[str] = ()) -> NoReturn:
    """Go on as the control process, under the same pid and name; `notes` are for its log. Raises OSError."""
    shown = Path("/proc/self/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    arguments = ["--options", json.dumps(config.as_texts(settings))]
    arguments += [
        "--shown",
        json.dumps(shown),
        "--notes",
        json.dumps([*notes, *without_effect(config.environment())]),
    ]
    command = child.command(START, *arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
