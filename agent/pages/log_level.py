"""`/logging`: which lines are logged, shown and changed while the agent runs, in ztunnel's words and shape.

What is set goes to all workers, also to those that come later, and ends with the agent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from agent.admin.server import Request, Response, text
from agent.log_force import put_in_force
from agent.log_levels import NUMBERS, Levels, NoLevel

log = logging.getLogger(__name__)

HELP = f"""usage: POST /logging                           (shows the current level)
usage: POST /logging?level=<level>             (of everything; one of {", ".join(NUMBERS)})
usage: POST /logging?level=<mod>=<level>,...   (of single modules, as the log shows them; access is the access log)
usage: POST /logging?reset                     (as it was at the start; &level=... sets it from there)
"""
PARAMETERS = frozenset(("level", "reset"))


@dataclass(slots=True)
class LoggingPage:
    """`tell`: all workers log by these levels from now on."""

    initial: Levels
    tell: Callable[[Levels], None]
    current: Levels

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return text(HELP, 405)
        unknown = request.query.keys() - PARAMETERS
        if unknown:
            return text(f"there is no parameter {', '.join(sorted(unknown))}\n{HELP}", 400)
        levels = self.initial if "reset" in request.query else self.current
        spec = request.query.get("level", "")
        try:
            levels = levels.with_spec(spec) if spec else levels
        except NoLevel as error:
            return text(f"{error}\n{HELP}", 400)
        if levels != self.current:
            log.warning("the level of the log is %s from now on; it was %s", levels, self.current)
            before, self.current = self.current, levels
            put_in_force(levels, before)
            self.tell(levels)
        return text(f"current log level is {levels}\n")
