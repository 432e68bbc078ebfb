"""Room for maps: before Linux 5.11 they count against RLIMIT_MEMLOCK of whoever makes them, by default 64 KiB.

Asked by doing, as neither a version nor the limit says whether it counts. Where it does the limit is raised, for this
process and what it starts: the loader, which makes most maps, and the agent itself, which makes the rings.
"""

from __future__ import annotations

import errno
import os
import resource

from redirect import sys_bpf

MOST_BYTES = 64 << 20
"""An instance has 18 MB of maps, and while it is upgraded twice that: a limit above counts for nothing."""
_KEY_BYTES, _VALUE_BYTES = 4, 4096


def ensure() -> bool:
    """Whether there is room, if need be after raising the limit. Raises OSError where maps cannot be made at all."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or limit > MOST_BYTES or not _is_counted(limit):
        return True
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        # Without CAP_SYS_RESOURCE.
        return False
    return True


def _is_counted(limit_bytes: int) -> bool:
    """Makes a map that is larger than the limit, and lets it go."""
    entries = limit_bytes // _VALUE_BYTES + 1
    try:
        fd = sys_bpf.map_create(
            sys_bpf.MAP_TYPE_ARRAY,
            "ztun_room",
            key_size=_KEY_BYTES,
            value_size=_VALUE_BYTES,
            max_entries=entries,
        )
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        return True
    os.close(fd)
    return False
