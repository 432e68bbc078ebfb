"""The time in which what the mesh carries for a pod may end by itself, before the pod is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from agent.enroll.captures import Captures
from agent.enroll.kernel import KernelSide
from agent.enroll.wish import PodKey
from agent.model.address import IP

LEAST_S = 1.0
"""Peers that have not heard yet dial the pod's tunnel port, which the proxy serves while it drains."""
LOOK_EVERY_S = 0.1


async def ended(
    key: PodKey,
    addresses: Collection[IP],
    drain_s: float,
    captures: Captures,
    kernel: KernelSide,
    monotonic: Callable[[], float],
) -> int:
    """Wait until nothing is open, at most `drain_s`, or the pod drains no longer; how many connections are left.

    Raises OSError.
    """
    began_s = monotonic()
    while True:
        left = await kernel.carried(addresses)
        passed_s = monotonic() - began_s
        if not captures.is_draining(key) or passed_s >= drain_s or (not left and passed_s >= LEAST_S):
            return left
        await asyncio.sleep(LOOK_EVERY_S)
