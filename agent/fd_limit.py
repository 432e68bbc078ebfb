"""How many descriptors a process of ztun may hold, and those that nobody but the channel may take.

Each connection takes some of a worker, each captured pod two of the control process: the usual soft limit of 1024
is soon reached, and only the hard one is meant as a limit. A little below it the soft limit stays: what lies between
is for listeners on their way between control and worker, which must arrive however full a process is.
"""

from __future__ import annotations

import errno
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

RESERVE = 256
"""More than the listeners of one message; an eighth of the limit where that is less."""
OWN = 160
"""What a worker holds for itself: sockets in stock, listeners, files."""
ACCEPT_ROOM = 16
LEAST_CONNECTIONS = 16
REMEDY = (
    "raise the limit of open files (LimitNOFILE= of systemd, ulimit -Hn, --ulimit nofile= of a container)"
)


class TooFewFiles(OSError):
    """This process may open so few files that no worker would be of use."""


def told(error: Exception) -> str:
    """Its text; where it is for want of descriptors, whose they are and what to do."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"{error}; the control process of this agent has as many open as it may ({soft}): {REMEDY}"
    return str(error)


def raise_fd_limit() -> None:
    """As many descriptors as the system lets this process have, less the reserve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - reserve(hard), hard))


def reserve(limit: int) -> int:
    """How much of a limit is kept for the channel."""
    return min(RESERVE, limit // 8)


@contextmanager
def with_reserve() -> Iterator[None]:
    """Let this process take from the reserve: for listeners that come or go, and for nothing else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        # What was taken stays open above the soft limit, which only counts for new descriptors.
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def accept_ceiling() -> int:
    """The descriptor number from which on nothing more is accepted: the rest is for dials of what was."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - max(ACCEPT_ROOM, soft // 16)


def connections_within(limit: int) -> int:
    """How many proxied connections a worker can hold: two descriptors each, and a quarter for handshakes."""
    return max(0, limit - reserve(limit) - OWN) * 4 // 9


def descriptors_for(connections: int) -> int:
    """A limit with room for so many."""
    return -(-connections * 9 // 4) + OWN + RESERVE


def fitted(connections: int, *, is_default: bool = False) -> int:
    """As many connections of a worker as the hard limit allows, said where they are fewer. Raises TooFewFiles.

    `is_default`: nobody asked for so many, so that fewer are nothing to warn of.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = connections_within(limit)
    if connections <= possible:
        return connections
    if possible < LEAST_CONNECTIONS:
        needed = descriptors_for(LEAST_CONNECTIONS)
        raise TooFewFiles(f"a process may open {limit} files, and a worker needs {needed}: {REMEDY}")
    log.log(
        logging.INFO if is_default else logging.WARNING,
        "--max-connections %d takes %d files in each worker, and a process may open %d: it is lowered to %d; %s,"
        " or ask for fewer",
        connections,
        descriptors_for(connections),
        limit,
        possible,
        REMEDY,
    )
    return possible
