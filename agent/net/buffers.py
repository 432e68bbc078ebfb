"""Memory that all connections of one loop share, so that an idle connection holds none.

The scratch views are valid within one callback. A stage is held by a link from the first byte it is going
to send in a turn until the end of that turn.
"""

from __future__ import annotations

import mmap

from agent.wire.tls_records import MAX_PLAIN_BYTES, RECORD_BYTES, TlsRecords

STAGE_BYTES = 1 << 18
"""Plaintext that one link collects before it is sealed and sent (measured)."""
RECEIVE_BYTES = STAGE_BYTES // MAX_PLAIN_BYTES * RECORD_BYTES + RECORD_BYTES
_KEPT_STAGES = 64


class Buffers:
    """`received` takes ciphertext, `opened` its plaintext, `sealed` what is sent; stages by `stage`."""

    __slots__ = ("_stages", "opened", "received", "sealed")

    def __init__(self) -> None:
        self.received = _memory(RECEIVE_BYTES + RECORD_BYTES)
        self.opened = _memory(RECEIVE_BYTES + RECORD_BYTES)
        self.sealed = _memory(TlsRecords.sealed_bytes(STAGE_BYTES))
        self._stages: list[memoryview] = []

    def stage(self) -> memoryview:
        """A buffer of STAGE_BYTES and one more, which sealing needs behind the last byte."""
        return self._stages.pop() if self._stages else _memory(STAGE_BYTES + 1)

    def give_back(self, stage: memoryview) -> None:
        if len(self._stages) < _KEPT_STAGES:
            self._stages.append(stage)


def _memory(size: int) -> memoryview:
    """Zeros that take no memory before something is written to them, unlike those of a bytearray."""
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
