"""How many descriptors a process of ztun may hold.

Each connection takes some of a worker, each captured pod two of the control process: the usual soft limit of 1024
is soon reached, and only the hard one is meant as a limit.
"""

from __future__ import annotations

import resource


def raise_fd_limit() -> None:
    """As many descriptors as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
