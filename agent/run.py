"""One run of the control process: what it needs before it serves, the lock of its run directory, and what follows.

A run that ends because another agent takes over tells so: this process then stands by (`agent.standing_by`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from dataclasses import replace

from agent.app import serve
from agent.config import Config, ConfigError, options
from agent.fd_limit import fitted
from agent.log import set_up_log
from agent.run_lock import AlreadyRuns, RunLock
from agent.standing_by import Place, StandsBy
from agent.start_error import StartError, make_run_directory, single
from agent.succession import LeftServing
from redirect import child
from redirect.errors import RedirectError
from redirect.nursery import Nursery
from redirect.spawn import ChildFailed

log = logging.getLogger(__name__)

EXPECTED = (AlreadyRuns, RedirectError, ChildFailed, OSError, ConfigError)
"""What can keep an agent from starting without being a defect; the text is for whoever starts it."""


def run(
    settings: Config, nursery: Nursery, notes: Iterable[str] = (), place: Place | StandsBy | None = None
) -> LeftServing | None:
    """Run the agent until SIGTERM, with workers from the nursery; `notes` are for its log. Raises StartError.

    `place`: how it comes to it where another agent runs. Returns what is left where it has to stand by now.
    """
    process_log = set_up_log(settings.log_level, settings.log_format, "agent")
    for note in notes:
        log.warning("%s", note)
    if os.geteuid() != 0:
        raise StartError("the agent loads eBPF programs and enters network namespaces: run it as root")
    try:
        make_run_directory(settings.directory)
        wanted = settings.max_connections
        is_default = wanted == int(options()["max_connections"].default)
        settings = replace(settings, max_connections=fitted(wanted, is_default=is_default))
        place = place or Place(settings)
        with RunLock(settings.directory, place.patience_s, place) as lock:
            left = asyncio.run(serve(settings, process_log, lock, nursery, place))
        # The loop that heard of them is over.
        child.ignore_what_means_nothing()
        if left.stands_by:
            return left
        left.see_off(settings.directory)
        return None
    except BaseExceptionGroup as group:
        expected, defects = group.split(EXPECTED)
        if expected is None or defects is not None:
            raise
        raise StartError("; ".join(dict.fromkeys(map(str, single(expected))))) from group
    except EXPECTED as error:
        raise StartError(str(error)) from error
