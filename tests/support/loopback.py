"""Loopback addresses that no other test process of this machine uses: two runs at once do not meet.

Ports of pods are fixed (15008 and the like), so it is the addresses that must differ.
"""

from __future__ import annotations

import os
import socket

_CLAIM = "255.254", 15000
"""Bound for as long as the process lives, by whoever has the network."""


def _claimed() -> tuple[int, socket.socket]:
    """The second byte of 127.x.0.0/16 that is ours, and what says so."""
    for offset in range(250):
        network = 1 + (os.getpid() + offset) % 250
        claim = socket.socket()
        try:
            claim.bind((f"127.{network}.{_CLAIM[0]}", _CLAIM[1]))
        except OSError:  # another process has it
            claim.close()
            continue
        return network, claim
    raise RuntimeError("no loopback network is free: 250 test processes run on this machine")


_NETWORK, _CLAIM_SOCKET = _claimed()


def ours(low: str) -> str:
    """The address of ours that ends with these two bytes: `ours("1.9")`."""
    return f"127.{_NETWORK}.{low}"
