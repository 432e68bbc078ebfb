"""What this process may do: which of the capabilities that ztun needs it has not (capabilities(7)).

Asked of the kernel's list, not by doing: without one the first call that needs it says EPERM, and not which.
"""

from __future__ import annotations

import os
from pathlib import Path

from redirect.errors import NotRoot

OWN_STATUS = Path("/proc/thread-self/status")
SYS_ADMIN, BPF = 21, 39
NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": SYS_ADMIN}
REMEDY = "give it those: `capabilities: add` of a container, CapabilityBoundingSet= of a unit"


def effective() -> int:
    """The mask of the calling thread's."""
    [line] = [line for line in OWN_STATUS.read_text().splitlines() if line.startswith("CapEff:")]
    return int(line.split()[1], 16)


def missing(mask: int) -> tuple[str, ...]:
    """Those that a mask has not and ztun cannot do without. CAP_SYS_ADMIN has what CAP_BPF has."""
    names = [name for name, bit in NEEDED.items() if not mask >> bit & 1]
    if not mask >> BPF & 1 and not mask >> SYS_ADMIN & 1:
        names.append("CAP_BPF")
    return tuple(names)


def require() -> None:
    """Raises NotRoot, naming what root is without; who is not root is told so by `features.probe`."""
    if os.geteuid() == 0 and (names := missing(effective())):
        raise NotRoot(f"this process is without {', '.join(names)}: {REMEDY}")
