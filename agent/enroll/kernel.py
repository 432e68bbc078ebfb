"""The enroller's way to the kernel side: blocking netlink and bpf(2) work, off the event loop.

Everything runs in one thread, so there is one writer; what is desired is made of the pods here, and the
kernel's own addresses are read anew each time. Names of pods do not reach `redirect`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from agent.enroll.desired import EnrolledPod
from agent.model.address import IP
from redirect import host_addresses, topology
from redirect.desired import Desired, DesiredPod
from redirect.reconcile import Redirection
from redirect.topology import Place

log = logging.getLogger(__name__)

T = TypeVar("T")
__all__ = ["KernelSide", "Place"]


@dataclass(frozen=True, slots=True)
class Captured:
    """What is captured: by interface."""

    ifindex: int
    ifname: str
    addresses: tuple[IP, ...]


class KernelSide:
    """Owns the Redirection; every method is awaited from the event loop."""

    def __init__(self, redirection: Redirection) -> None:
        self._redirection = redirection
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._places: dict[int, Place] = {}

    async def run(self, work: Callable[[Redirection], T]) -> T:
        """Do something with the Redirection in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._redirection)

    async def locate(self, *, netns: str | None, pid: int | None, ifname: str | None) -> Place:
        """Where a pod is attached, or why it cannot be captured (`refusal`)."""
        place = await self.run(lambda _: topology.locate(netns=netns, pid=pid, ifname=ifname))
        self._places[place.ifindex] = place
        return place

    async def captured(self) -> tuple[Place, ...]:
        """What the pins say is captured, with interfaces that still exist."""
        places = await self.run(lambda redirection: redirection.captured())
        self._places.update({place.ifindex: place for place in places})
        return tuple(place for place in places if place.ifname)

    async def interfaces(self) -> frozenset[int]:
        """The ifindexes of this node."""
        return await self.run(lambda _: host_addresses.interfaces())

    async def capture(
        self, pods: Iterable[EnrolledPod], unrecognised: Iterable[Place], *, keep_existing: bool
    ) -> list[str]:
        """Capture exactly these interfaces; answers what people should know about open connections."""
        places = [self._places[pod.ifindex] for pod in pods] + list(unrecognised)

        def work(redirection: Redirection) -> list[str]:
            wanted = desired(places, frozenset(host_addresses.local()))
            done = redirection.apply(wanted, keep_existing=keep_existing)
            for line in done:
                log.info("kernel: %s", line)
            return [line for line in done if "open connections" in line]

        return await self.run(work)

    def close(self) -> None:
        self._thread.shutdown(wait=True)


def desired(places: Iterable[Place], addresses: frozenset[IP]) -> Desired:
    """The kernel side's wish list."""
    pods = tuple(
        DesiredPod(place.ifindex, place.ifname, place.addresses, place.gateway_mac)
        for place in sorted(places, key=lambda place: place.ifindex)
    )
    return Desired(pods=pods, host_addresses=addresses)
