"""In place of the device by which a worker sends frames."""

from __future__ import annotations

import struct

from agent.wire.held_syn import VNET_HEADER
from tests.support import packets as pk

IP4_AT = 34


class Frames:
    """Keeps what it is to send."""

    mac = b"\x02" * 6

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> bool:
        self.sent.append(frame[VNET_HEADER.size :])
        return True

    def let_in(self) -> list[int]:
        """Sequence numbers of SYNs that were let in."""
        return [struct.unpack_from(">I", f, IP4_AT + 4)[0] for f in self.sent if f[IP4_AT + 13] == pk.SYN]

    def resets(self) -> list[int]:
        """What the resets acknowledge."""
        return [struct.unpack_from(">I", f, IP4_AT + 8)[0] for f in self.sent if f[IP4_AT + 13] == 0x14]
