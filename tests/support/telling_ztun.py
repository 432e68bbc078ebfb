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


def tell(directory: Path) -> None:
    shown = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
    said = json.dumps({"shown": shown, "modules": sorted(sys.modules)})
    (directory / f"{os.getpid()}.json").write_text(said)


def main() -> None:
    directory, *arguments = sys.argv[1:]
    sys.argv[1:] = arguments
    if arguments[0] != "--given":
        from agent.cli import entry  # only here: the agent's interpreter has it no more

        begin = os.execv

        def telling(path: str, command: list[str]) -> None:
            assert command[:5] == child.command("agent.start")
            begin(path, child.command(__name__, directory, *command[5:]))

        os.execv = telling  # type: ignore[assignment]
        entry.main()
        return
    from agent import start

    atexit.register(tell, Path(directory))
    start.main()
