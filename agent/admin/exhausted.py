"""What asyncio says of a listener for which there is no descriptor: once in a while, and in words.

Python 3.11 says so a hundred times, with as many tracebacks, whenever somebody knocks (its loop of accepts goes on), so
that a process that is out of descriptors also lost the other lines of its log.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

log = logging.getLogger(__name__)

EVERY_S = 10.0
MESSAGE = "socket.accept() out of system resource"


def say_seldom(loop: asyncio.AbstractEventLoop, every_s: float = EVERY_S) -> None:
    """From now on, for every listener of this loop. All else is told as before."""
    said_s = -every_s

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said_s
        if context.get("message") != MESSAGE:
            loop.default_exception_handler(context)
            return
        if loop.time() >= said_s + every_s:
            said_s = loop.time()
            log.error(
                "questions to this agent wait: %s; raise the limit (RLIMIT_NOFILE, LimitNOFILE=)",
                context.get("exception"),
            )

    loop.set_exception_handler(handle)
