"""Which new plaintext connections the kernel gives to this worker, where it chooses by addresses and ports.

The same choice as `chosen` of bpf/include/ztun_hold.h makes, so that a worker can dial itself: tests/packets hold the
two against each other. A worker serves the owner of its own slot, and those of workers that are not there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from agent.model.address import SocketAddress

_WORD = 0xFFFFFFFF
_FACTOR, _LAST_FACTOR = 0x9E3779B1, 0x85EBCA6B
_WORDS = {4: struct.Struct("=I"), 16: struct.Struct("=4I")}
"""Of an address in network order, read as the programs do: in the order of this machine."""
SETTLES_S = 5.0
"""After a change, for so long, another worker may still accept at listeners that are this one's."""
_PORT, _PORT_BE = struct.Struct("=H"), struct.Struct(">H")


class OwnShare:
    """The owners that this worker serves, of `count`. `key`: of the choice, which the kernel side has drawn."""

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        self.key = 0
        self._count = count
        self._clock = clock
        self._served: set[int] = set()
        self._changed_s = clock()

    def __bool__(self) -> bool:
        return bool(self._served)

    @property
    def is_settled(self) -> bool:
        """Whether nobody else accepts what comes here."""
        return self._clock() - self._changed_s >= SETTLES_S

    def take(self, owner: int) -> None:
        self._served.add(owner)
        self._changed_s = self._clock()

    def leave(self, owner: int) -> None:
        self._served.discard(owner)
        self._changed_s = self._clock()

    def has(self, remote: SocketAddress, local: SocketAddress) -> bool:
        """Whether a connection that `remote` opens to `local` comes here."""
        return self.owner(remote, local) in self._served

    def owner(self, remote: SocketAddress, local: SocketAddress) -> int:
        return owner_of(remote, local, self._count, self.key)


def owner_of(remote: SocketAddress, local: SocketAddress, count: int, key: int) -> int:
    """The owner, of `count`, to whose listener such a connection goes. Both addresses are of one family."""
    ours, theirs = local.ip.packed, remote.ip.packed
    words = _WORDS[len(ours)]
    value = key
    for far, near in zip(words.unpack(theirs), words.unpack(ours), strict=True):
        value = _mixed(_mixed(value, far), near)
    value = _mixed(value, _as_read(remote.port) << 16 | _as_read(local.port))
    return ((value ^ key) * _LAST_FACTOR & _WORD) * count >> 32


def _mixed(value: int, word: int) -> int:
    value = (value ^ word) * _FACTOR & _WORD
    return value ^ value >> 15


def _as_read(port: int) -> int:
    read: int = _PORT.unpack(_PORT_BE.pack(port))[0]
    return read
