"""The `ztun` command: an agent is begun at once, by an interpreter of its own; all else is for `agent.cli`.

What begins an agent is gone a moment later (execve), so it loads as little as may be: no click, nor the table of
options. `agent.start` reads what was given; where that is not plain, or wrong, it has `agent.cli` read it again and
refuse it in words.
"""

from __future__ import annotations

import os
import sys

CHILD = f"{os.path.abspath(__file__).removesuffix('/agent/cli/entry.py')}/redirect/child.py"
"""The first code of every process of ours."""


def main() -> None:
    """The console script."""
    keep_standard_streams()
    # Keep gRPC's C core from printing errors itself; ours carry the same text. Before grpc is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if sys.argv[1:2] == ["agent"] and not {"-h", "--help"} & set(sys.argv):
        try:
            begin_agent()
        except OSError:  # the command says the same, and what to check
            pass
    # Only here: it takes longer than all of the above.
    from agent.cli.main import main as command

    command()


def keep_standard_streams() -> None:
    """One that is closed (`>&-`) leads nowhere: a map or a socket of ours with its number would get what is printed."""
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is this one. An agent goes on with it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115


def begin_agent() -> None:
    """Go on as the control process, under the same pid and, soon, name: does not return. Raises OSError."""
    with open("/proc/self/cmdline", "rb") as file:
        shown = file.read().decode(errors="surrogateescape").split("\0")[:-1]
    # As `redirect.child.command` makes it. What was given is the end of what ps shows.
    given = len(sys.argv) - 2
    command = [sys.executable, "-I", CHILD, "agent.start", "-1", "--given", str(given), *shown]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
