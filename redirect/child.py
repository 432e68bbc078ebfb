"""The first code of every process of ours: which code it may load, and how it says why it ended.

Run by its path in an isolated interpreter, by `redirect.spawn` only: `python -I child.py MODULE REPORT_FD ARGUMENT...`
calls main() of the module. Such an interpreter looks neither into the working directory nor at PYTHONPATH, so the
one place that is added here is the one that the parent's own code came from: a checkout, or where a wheel lies. With
a REPORT_FD, what main() raised goes there as one JSON object instead of as a traceback on stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

TEXT_CHARS, DETAILS_CHARS = 500, 8000
"""Of a text its beginning, of a traceback its end: a report must fit into a pipe that nobody reads yet."""
NO_REPORT = -1


def main() -> None:
    root = str(Path(__file__).parents[1])
    if root not in sys.path:
        # First: a ztun that is installed as well must not mix with the checkout that the parent runs from.
        sys.path.insert(0, root)
    module, report_fd, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    try:
        code = importlib.import_module(module).main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, SystemExit) as error:
        if int(report_fd) == NO_REPORT or (isinstance(error, SystemExit) and not isinstance(error.code, str)):
            raise
        _report(int(report_fd), error)
        sys.exit(1)
    sys.exit(code)


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
