"""The enroller's way to the kernel side: blocking netlink and bpf(2) work, off the event loop.

Everything runs in one thread, so there is one writer. It remembers nothing: what is desired is made of the places
that come with each call, and the kernel's own addresses are read anew each time. Of pods `redirect` knows places;
whose they are it keeps as a note, which it does not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from agent.enroll import newcomer, passers_by, search
from agent.enroll.abridged import abridged
from agent.enroll.handed import HandedNamespaces
from agent.enroll.passers_by import Passed
from agent.enroll.search import failures_of
from agent.enroll.sighting import Found, Sighting
from agent.enroll.wish import PodKey, Where, Wish
from agent.model.address import IP
from redirect import host_addresses, other_mesh, sock_diag
from redirect.desired import Desired, NodeRules
from redirect.errors import RedirectError
from redirect.existing import NOBODYS
from redirect.findings import Finding
from redirect.foundation import Prepared
from redirect.locate import inside, locate
from redirect.netns import NamespaceId, entered
from redirect.other_mesh import OtherMesh
from redirect.place import Place
from redirect.reconcile import Redirection

log = logging.getLogger(__name__)

T = TypeVar("T")

SETTLING_S = 0.1
"""Of each proof, every other second: what else is to be done waits for so long at most."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of one change: `notes` are for whoever asked, `failures` say which interface they concern."""

    notes: tuple[str, ...] = ()
    failures: tuple[RedirectError, ...] = ()


class KernelSide:
    """Owns the Redirection; every method is awaited from the event loop."""

    def __init__(self, redirection: Redirection, handed: HandedNamespaces | None = None) -> None:
        self._redirection = redirection
        self._handed = handed
        self.limits: tuple[str, ...] = ()
        """What does not work on this kernel as it should, once it is known."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")

    async def run(self, work: Callable[[Redirection], T]) -> T:
        """Do something with the Redirection in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._redirection)

    async def own(
        self,
        allowed_encapsulations: tuple[str, ...],
        strangers_per_s: int,
        stranger_burst: int,
        is_plaintext_by_ports: bool,
        is_dns_open: bool,
        host_traffic: str,
    ) -> Prepared:
        """Make what does not depend on pods, by rules as of `NodeRules`, as the only agent of this instance.

        Raises as `Redirection.own`.
        """
        rules = NodeRules(
            allowed_encapsulations=allowed_encapsulations,
            strangers_per_s=strangers_per_s,
            stranger_burst=stranger_burst,
            is_plaintext_by_ports=is_plaintext_by_ports,
            is_dns_open=is_dns_open,
            host_traffic=host_traffic,
        )
        prepared = await self.run(lambda redirection: redirection.own(rules))
        self.limits = prepared.limits
        for limit in prepared.limits:
            log.warning("limited: %s", limit)
        return prepared

    async def locate(self, where: Where) -> tuple[Where, Place]:
        """Where a pod is attached, or why it cannot be captured (`refusal`); its process told from later ones.

        Raises PodNotFound, OSError.
        """

        def work() -> tuple[Where, Place]:
            settled = search.pinned_down(where)
            return settled, locate(netns=settled.netns, pid=settled.pid, ifname=settled.ifname)

        # It only reads, and may wait for a gateway to answer: beside the thread that writes.
        return await asyncio.to_thread(work)

    async def search(
        self,
        wishes: Mapping[PodKey, Wish],
        known: Mapping[PodKey, Sighting],
        captured: Collection[int],
        doubted: Collection[int],
        told_s: float | None,
        present: Collection[int] = (),
        learning: Collection[PodKey] = (),
    ) -> Found:
        """As `search.search`. Raises OSError."""
        return await self.run(
            lambda redirection: search.search(
                redirection, wishes, known, captured, doubted, told_s, present, self._handed, learning
            )
        )

    async def look_at_passers_by(
        self, ifindexes: Collection[int], wishes: Mapping[PodKey, Wish], known: Mapping[PodKey, Sighting]
    ) -> Passed:
        """As `passers_by.look`. Raises OSError."""
        return await self.run(lambda _: passers_by.look(ifindexes, wishes, known))

    async def look_for(self, key: PodKey, wish: Wish, captured: Collection[int]) -> Found | None:
        """As `newcomer.look_for`."""
        return await self.run(
            lambda redirection: newcomer.look_for(redirection, key, wish, captured, self._handed)
        )

    async def finish(self, found: Found) -> tuple[RedirectError, ...]:
        """As `newcomer.finish`."""
        return await self.run(lambda redirection: newcomer.finish(redirection, found))

    async def clean(self, where: Where, place: Place) -> OtherMesh:
        """Close a pod's interface, then take away what another mesh has left in the pod; what it was.

        Raises RedirectError, OSError; then the interface stays closed until everything is applied again.
        """

        def work(redirection: Redirection) -> OtherMesh:
            # First: without those rules the pod would speak in clear.
            redirection.close_off(
                {place.ifindex: place.ifname}, {place.ifindex: place.addresses}, {place.ifindex: place.owner}
            )
            with inside(netns=where.netns, pid=where.pid, ifname=where.ifname):
                found = other_mesh.find()
                other_mesh.clean(found)
            return found

        return await self.run(work)

    async def take_out_rules(self, namespace: NamespaceId) -> OtherMesh:
        """Take away the rules of another mesh in a pod whose interface is captured; what there was.

        Its routing of marked packets stays, which nothing uses without them: see `is_redirected`. Raises RedirectError,
        OSError.
        """

        def work(_: Redirection) -> OtherMesh:
            with search.held_of(namespace, self._handed) as path, entered(path):
                found = other_mesh.find()
                if found.leads:
                    other_mesh.take_out_rules(found)
            return found

        return await self.run(work)

    async def is_redirected(self, namespace: NamespaceId) -> bool:
        """Whether whoever led a pod's packets to a proxy inside of it has not taken that back.

        Raises RedirectError, OSError.
        """

        def work(_: Redirection) -> bool:
            with search.held_of(namespace, self._handed) as path, entered(path):
                return other_mesh.has_ambient_routing()

        return await self.run(work)

    async def captured(self) -> tuple[Place, ...]:
        """What the pins say is captured, with interfaces that still exist."""
        places = await self.run(lambda redirection: redirection.captured())
        return tuple(place for place in places if place.ifname)

    async def capture(
        self,
        places: Iterable[Place],
        *,
        keep_existing: Mapping[int, float] = NOBODYS,
        only: Collection[int] | None = None,
    ) -> Applied:
        """Capture exactly these interfaces. A pod that failed is closed; the others are done.

        `keep_existing`: as of `Redirection.apply`; `only`: those that are to change, where
        nothing else has.
        """
        wanted = tuple(places)

        def work(redirection: Redirection) -> Applied:
            failures: tuple[RedirectError, ...] = ()
            done: Collection[str]
            try:
                addresses = host_addresses.local() if only is None else frozenset()
                done = redirection.apply(desired(wanted, addresses), keep_existing=keep_existing, only=only)
            except (RedirectError, OSError) as error:
                failures = failures_of(error)
                done = error.done if isinstance(error, RedirectError) else ()
            for line in abridged(done):
                log.info("kernel: %s", line)
            return Applied(tuple(line for line in done if "open connection" in line), failures)

        return await self.run(work)

    async def carried(self, addresses: Collection[IP]) -> int:
        """How many connections of pods, or to them, the proxy has open. Raises OSError."""
        return await self.run(lambda each: sock_diag.open_to(addresses, each.private_namespaces[0]))

    async def prove(self, places: Iterable[Place]) -> tuple[Finding, ...]:
        """What of `capture(places)` is not so, asked of the kernel. Raises RedirectError, OSError.

        Where nothing is to be mended there is time for some of what was attached in haste.
        """
        wanted = tuple(places)

        def work(redirection: Redirection) -> tuple[Finding, ...]:
            found = redirection.prove(desired(wanted, host_addresses.local()))
            if not any(each.is_mendable for each in found):
                redirection.settling.turn(SETTLING_S)
            return found

        return await self.run(work)

    def close(self) -> None:
        try:
            self._thread.submit(self._redirection.close).result()
        except (RedirectError, OSError) as error:
            log.error("captured pods may be open from now on: a link cannot be pinned (%s)", error)
        self._thread.shutdown(wait=True)


def desired(places: Iterable[Place], addresses: frozenset[IP]) -> Desired:
    """The kernel side's wish list."""
    pods = (place.desired() for place in sorted(places, key=lambda place: place.ifindex))
    return Desired(pods=tuple(pods), host_addresses=addresses)
