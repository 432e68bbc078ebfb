"""The `ztun` command: an agent whose flags are plain is started at once, everything else by `main`.

What starts an agent is gone a moment later (execve), so it loads as little as may be: no click. Only what is sound is
taken here; what is not, `main` reads again and refuses in words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from agent import config
from agent.cli.becoming import become_agent, settings_of


def main() -> None:
    """The console script."""
    config.quiet_grpc()
    if sys.argv[1:2] == ["agent"]:
        flags = plain_flags(sys.argv[2:])
        if flags is not None:
            # The command says the same error, with what is right beside it.
            with suppress(config.ConfigError, OSError):
                become_agent(settings_of(flags))
    # Only here: it takes longer than all of the above.
    from agent.cli.main import main as command

    command()


def plain_flags(arguments: Sequence[str]) -> dict[str, str] | None:
    """Values by name of the option, where there are only `--name value` and `--name=value` of the agent."""
    known = {f"--{name.replace('_', '-')}": name for name in config.options()}
    flags: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        flag, has_value, value = argument.partition("=")
        given = value if has_value else next(rest, "-")
        # One that looks like a flag may be the next one, where a value was forgotten.
        if flag not in known or (not has_value and given.startswith("-")):
            return None
        flags[known[flag]] = given
    return flags
