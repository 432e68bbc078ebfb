"""The first code of every process of ours: which code it may load, and how it says why it ended.

Run by its path in an isolated interpreter, by `redirect.spawn` only: `python -I child.py MODULE REPORT_FD ARGUMENT...`
calls main() of the module. Such an interpreter looks neither into the working directory nor at PYTHONPATH, so the
one place that is added here is the one that the parent's own code came from: a checkout, or where a wheel lies. With
a REPORT_FD, what main() raised goes there as one JSON object instead of as a traceback on stderr. A process that is
forked from such an interpreter (`redirect.nursery`) begins with `become`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

TEXT_CHARS, DETAILS_CHARS = 500, 8000
"""Of a text its beginning, of a traceback its end: a report must fit into a pipe that nobody reads yet."""
NO_REPORT = -1
WITHOUT_MEANING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that say nothing to a process that serves. By default each would end it, and what it carries."""


def main() -> None:
    root = str(Path(__file__).parents[1])
    if root not in sys.path:
        # First: a ztun that is installed as well must not mix with the checkout that the parent runs from.
        sys.path.insert(0, root)
    module, report_fd, *arguments = sys.argv[1:]
    become(module, int(report_fd), arguments)


def command(module: str, *arguments: str, report_fd: int = NO_REPORT) -> list[str]:
    """The command line that runs main() of a module of ours. Without `report_fd` its errors go to stderr."""
    return [sys.executable, "-I", str(Path(__file__).absolute()), module, str(report_fd), *arguments]


def become(module: str, report_fd: int, arguments: Sequence[str]) -> NoReturn:
    """Run main() of the module, and leave as it tells. Raises what it raised where there is no `report_fd`."""
    sys.argv = [module, *arguments]
    try:
        code = importlib.import_module(module).main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, SystemExit) as error:
        if report_fd == NO_REPORT or (isinstance(error, SystemExit) and not isinstance(error.code, str)):
            raise
        _report(report_fd, error)
        sys.exit(1)
    sys.exit(code)


def ignore_what_means_nothing() -> None:
    """From here on signals without meaning end neither this process nor those that it makes."""
    for signum in WITHOUT_MEANING:
        signal.signal(signum, signal.SIG_IGN)


def flags(arguments: Sequence[str]) -> dict[str, str]:
    """`--name value` pairs, as whoever starts a process of ours gives them. Leaves with a text where there is another.

    argparse would take 0.3 MB of each process.
    """
    names, values = arguments[::2], arguments[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        sys.exit(f"{sys.argv[0]} is started by other processes of ztun, with --name value: {list(arguments)}")
    return dict(zip((name.removeprefix("--") for name in names), values, strict=True))


def _report(fd: int, error: BaseException) -> None:
    """One JSON object: the cause by the names of `spawn.Cause`, one line of text, and the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SystemExit):
        cause, text = "refused", str(error)
    elif isinstance(error, OSError):
        cause, text = "system", str(error)
    else:
        cause = "defect"
        text = f"{type(error).__name__}: {error} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
    details = "".join(traceback.format_exception(error))
    report = {"cause": cause, "text": text[:TEXT_CHARS], "details": details[-DETAILS_CHARS:]}
    try:
        os.write(fd, json.dumps(report).encode())
    except OSError:
        # The parent is gone, as it may be: stderr is the only one left to hear of it.
        with contextlib.suppress(OSError):
            sys.stderr.write(details)


if __name__ == "__main__":
    main()
