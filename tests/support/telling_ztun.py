"""`ztun` whose agent and workers tell at their end which modules they have loaded, each in a file of a directory.

First argument: the directory. The agent's interpreter is another than the command's (execve), so it is started by this
module as well; what is forked from it inherits the promise to tell.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

from redirect import child

_command = child.command


def tell(directory: Path) -> None:
    shown = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
    said = json.dumps({"shown": shown, "modules": sorted(sys.modules)})
    (directory / f"{os.getpid()}.json").write_text(said)


def main() -> None:
    directory, *arguments = sys.argv[1:]
    if arguments[0] != "--options":
        from agent.cli.entry import main as ztun

        def telling(module: str, *rest: str, report_fd: int = -1) -> list[str]:
            assert module == "agent.start"
            return _command(__name__, directory, *rest, report_fd=report_fd)

        child.command = telling
        sys.argv[1:] = arguments
        ztun()
        return
    from agent import start

    atexit.register(tell, Path(directory))
    sys.argv[1:] = arguments
    start.main()
