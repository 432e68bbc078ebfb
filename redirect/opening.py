"""An entry of `openings`: until when the connections of a pod, or of all pods of the node, go past the proxy.

Part of `layout`, which has the rest of bpf/include/ztun_types.h. Times are ns of the clock that goes on while the
machine is suspended (CLOCK_BOOTTIME), as the programs have it.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

OF_NODE = 0
"""In place of an interface's number: every pod of the node."""
NO_ADDRESS = bytes(16)


def now_ns() -> int:
    """What the programs compare ends with."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def in_s(for_s: int) -> int:
    """The whole second of that clock so long from now."""
    return now_ns() // 1_000_000_000 + for_s


@dataclass(frozen=True, slots=True)
class Opening:
    """Value of `openings`. It is of the pod that has these addresses (as `ifaces` has them), and of no later one.

    `who` opened it and `reason` are for people; no program reads them.
    """

    FORMAT = struct.Struct("=QQ16s16s464s")
    NOTE_BYTES = 464

    until_ns: int
    since_ns: int
    addr4: bytes = NO_ADDRESS
    addr6: bytes = NO_ADDRESS
    who: str = ""
    reason: str = ""

    def encode(self) -> bytes:
        """Raises ValueError for a note that has no room."""
        raw = f"{self.who}\n{self.reason}".encode()
        if len(raw) > self.NOTE_BYTES or b"\0" in raw:
            raise ValueError(f"who and why take {len(raw)} bytes, and there is room for {self.NOTE_BYTES}")
        return self.FORMAT.pack(self.until_ns, self.since_ns, self.addr4, self.addr6, raw)

    @classmethod
    def decode(cls, raw: bytes) -> Opening:
        until_ns, since_ns, addr4, addr6, note = cls.FORMAT.unpack(raw)
        who, _, reason = note.rstrip(b"\0").decode(errors="replace").partition("\n")
        return cls(until_ns, since_ns, addr4, addr6, who, reason)

    def is_on(self, at_ns: int) -> bool:
        return self.until_ns > at_ns
