"""Enrolment without a kernel: a kernel side that finds what it is told to find, and everything around it recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.enroll.captures import Captures
from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.enroller import Enroller
from agent.enroll.kernel import Applied
from agent.enroll.passers_by import Passed
from agent.enroll.sighting import Closure, Found, Sighting
from agent.enroll.source import PodSource
from agent.enroll.treatment import Asked, Honesty, Ways
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey, Where, Wish
from agent.enroll.wish_file import WishFile
from agent.identity.signer import SigningError
from agent.model.address import IP, parse_ip
from agent.model.identity import Identity
from agent.state.apply import Changes
from agent.state.store import Store
from redirect.errors import PodNotFound, RedirectError, StepFailed
from redirect.existing import NOBODYS
from redirect.netns import NamespaceId
from redirect.other_mesh import OtherMesh
from redirect.place import Place
from tests.support import mesh


def place(number: int, *addresses: str, namespace: int | None = None, refusal: str = "") -> Place:
    """vethN with address 10.0.0.N, in namespace N unless told otherwise."""
    inode = number if namespace is None else namespace
    found = tuple(map(parse_ip, addresses or (f"10.0.0.{number}",)))
    return Place(number, f"veth{number}", found, b"\x02" * 6, (), refusal, NamespaceId(inode, inode), inode)


def where(number: int) -> Where:
    return Where(netns=f"/run/netns/{number}")


def wish(number: int, name: str) -> Wish:
    return Wish(PodKey("apps", name), where(number))


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for it outside of tests
            await asyncio.sleep(0)


class FakeKernel:
    """Finds pods in `places`; what is not there is not found. Fails for the interfaces in `failing`."""

    def __init__(self) -> None:
        self.places: dict[Where, Place] = {where(number): place(number) for number in range(1, 10)}
        self.ends: dict[Where, frozenset[int]] = {}
        """Interfaces that lead to a pod beside that of its place."""
        self.missing = Missing.NAMESPACE
        self.clean_error: Exception | None = None
        self.pins: tuple[Place, ...] = ()
        self.present: set[int] = set(range(1, 10))
        self.captures: list[set[Place]] = []
        self.owners: dict[str, str] = {}
        """Whose each interface of the last capture was said to be."""
        self.kept: list[dict[int, float]] = []
        self.carrying: list[int] = []
        """How many connections it has open of whatever pod, look by look; then none."""
        self.closed: list[int] = []
        self.learnt: list[int] = []
        """Interfaces that stayed open until the next capture."""
        self._closed_since: set[int] = set()
        self.looked_for: list[str] = []
        """Pods that were looked for alone, ahead of a turn."""
        self.changed: list[set[int] | None] = []
        """Of each capture the interfaces that alone were to change; None: all were looked at."""
        self.passers_by: list[set[int]] = []
        """Interfaces that were looked at on the chance that they lead to a pod; those in `concerned` do."""
        self.concerned: set[int] = set()
        self.searches = 0
        self.at_once = 100
        """How many interfaces one search closes at most."""
        self.doubted: list[set[int]] = []
        """Of each search the namespaces in which something had changed."""
        self.after_look: Callable[[], None] = lambda: None
        """What happens between the look at pods and its end."""
        self.finished: list[int] = []
        """Interfaces of which the second direction was closed, behind the start of their pods."""
        self.failing_to_finish: set[int] = set()
        self.failing: set[int] = set()
        self.failing_to_close: set[int] = set()

    @property
    def last(self) -> set[str]:
        """The interfaces of the last capture, and those that were closed since."""
        return {place.ifname for place in self.captures[-1]} | self.closed_now

    @property
    def closed_now(self) -> set[str]:
        """Those of them that let nothing through."""
        captured = {place.ifname for place in self.captures[-1] if not place.addresses}
        return captured | {f"veth{index}" for index in self._closed_since & self.present}

    async def locate(self, where: Where) -> tuple[Where, Place]:
        if where not in self.places:
            raise PodNotFound(f"there is no {where}")
        return where, self.places[where]

    async def clean(self, where: Where, place: Place) -> OtherMesh:
        self.closed.append(place.ifindex)
        if self.clean_error is not None:
            raise self.clean_error
        self.places[where] = replace(place, refusal="", is_cleanable=False, other_mesh=OtherMesh())
        return place.other_mesh

    async def take_out_rules(self, namespace: NamespaceId) -> OtherMesh:
        at = Where(handed=namespace)
        found = self.places[at]
        captured = {each.ifindex for last in self.captures[-1:] for each in last}
        assert found.ifindex in captured.union(self.closed), "it is open"
        if self.clean_error is not None:
            raise self.clean_error
        self.places[at] = replace(found, refusal="", is_cleanable=False, other_mesh=OtherMesh())
        return found.other_mesh

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
        self.searches += 1
        self.doubted.append(set(doubted))
        sightings, closed = {}, []
        failures: list[RedirectError] = []
        is_partial = False
        for key, wish in wishes.items():
            if len(closed) == self.at_once and not self._sighting(wish.where).ends <= set(captured):
                is_partial = True
                continue
            sightings[key] = sighting = self._sighting(wish.where)
            for index in sorted(sighting.ends - set(captured)):
                if index in self.failing_to_close:
                    failures.append(StepFailed(f"veth{index}: attach", "no room", index))
                    continue
                if key in learning and index in present:
                    self.learnt.append(index)
                    continue
                self.closed.append(index)
                self._closed_since.add(index)
                closed.append(Closure(key, index, f"veth{index}", None if told_s is None else 0.002, 3))
        self.after_look()
        present = {number: f"veth{number}" for number in self.present}
        return Found(sightings, present, tuple(closed), tuple(failures), is_partial=is_partial)

    async def look_for(self, key: PodKey, wish: Wish, captured: Collection[int]) -> Found | None:
        self.looked_for.append(key.name)
        found = await self.search({key: wish}, {}, captured, (), None)
        ends = found.sightings[key].ends
        present = {number: f"veth{number}" for number in ends}
        return Found(found.sightings, present, found.closed, found.failures) if ends else None

    async def finish(self, found: Found) -> tuple[RedirectError, ...]:
        self.finished += [closure.ifindex for closure in found.closed]
        return tuple(
            StepFailed(f"{closure.ifname}: attach", "no room", closure.ifindex)
            for closure in found.closed
            if closure.ifindex in self.failing_to_finish
        )

    async def look_at_passers_by(
        self, ifindexes: Collection[int], wishes: Mapping[PodKey, Wish], known: Mapping[PodKey, Sighting]
    ) -> Passed:
        self.passers_by.append(set(ifindexes))
        return Passed(frozenset(self.present & set(ifindexes)), not self.concerned.isdisjoint(ifindexes))

    def _sighting(self, where: Where) -> Sighting:
        found = self.places.get(where)
        ends = self.ends.get(where, frozenset()) & self.present
        if found is None:
            return Sighting(None, ends, self.missing, f"there is no {where}")
        if found.refusal:
            return Sighting(found, ends, Missing.INTERFACE, found.refusal)
        if found.ifindex not in self.present:
            return Sighting(None, ends, Missing.INTERFACE, "its namespace has no interface with an address")
        return Sighting(found, ends | {found.ifindex}, nsid=found.nsid)

    async def captured(self) -> tuple[Place, ...]:
        return self.pins

    async def carried(self, addresses: Collection[IP]) -> int:
        return self.carrying.pop(0) if addresses and self.carrying else 0

    async def capture(
        self,
        places: Iterable[Place],
        *,
        keep_existing: Mapping[int, float] = NOBODYS,
        only: Collection[int] | None = None,
    ) -> Applied:
        wanted = tuple(places)
        self._closed_since.clear()
        self.changed.append(None if only is None else set(only))
        self.captures.append({replace(each, owner="") for each in wanted})
        self.owners = {each.ifname: each.owner for each in wanted}
        self.kept.append(dict(keep_existing))
        failures: list[RedirectError] = [
            StepFailed(f"{each.ifname}: attach", "no such device", each.ifindex)
            for each in sorted(self.captures[-1], key=lambda each: each.ifindex)
            if each.ifindex in self.failing
        ]
        notes = tuple(f"keep 1 open connection of veth{index}" for index in sorted(keep_existing))
        return Applied(notes, tuple(failures))


class FakeCertificates:
    """Certificates for everybody in use, but for those in `errors`; what is not `is_ready` never comes."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.in_use: frozenset[Identity] = frozenset()
        self.errors: dict[str, SigningError] = {}
        self.is_ready = True

    def set_in_use(self, identities: Iterable[Identity]) -> None:
        self.in_use = frozenset(identities)

    def get(self, identity: Identity) -> object | None:
        is_there = self.is_ready and identity in self.in_use and identity.service_account not in self.errors
        return identity if is_there else None

    def error(self, identity: Identity) -> str:
        error = self.errors.get(identity.service_account)
        return str(error) if error else ""

    async def obtain(self, identity: Identity) -> object:
        assert identity in self.in_use, "nobody fetches a certificate that is not in use"
        self.events.append(("certificate", identity.service_account))
        if identity.service_account in self.errors:
            raise self.errors[identity.service_account]
        if not self.is_ready:
            await asyncio.Event().wait()
        return identity


class World:
    """An enroller and all that it talks to. A second one on the same directory is the agent after it."""

    def __init__(
        self,
        directory: Path,
        *workloads: Any,
        kernel: FakeKernel | None = None,
        sources: Collection[PodSource] = (),
        honesty: Honesty = Honesty.OFF,
        keep_existing_s: float = 0.0,
    ) -> None:
        self.kernel = kernel or FakeKernel()
        self.now_s = 1000.0
        self.store = Store(mesh.snapshot(*workloads))
        self.events: list[Any] = []
        self.certificates = FakeCertificates(self.events)
        self.file = WishFile(directory)
        self.captures = Captures(
            "n1",
            "",
            self.store,
            self.kernel,  # type: ignore[arg-type]
            self.file,
            self.certificates,
            self._told,
            self._announced,
            lambda: self.now_s,
            Ways(honesty),
        )
        self.enroller = Enroller(
            "n1",
            "",
            self.store,
            self.kernel,  # type: ignore[arg-type]
            self.captures,
            self.certificates.obtain,
            self.certificates.obtain,
            lambda: self.now_s,
            sources=sources,
            keep_existing_s=keep_existing_s,
        )
        self.store.subscribe(self.enroller.state_changed)

    def _told(self, pods: Iterable[EnrolledPod]) -> None:
        self.events.append(("workers", sorted(pod.name for pod in pods)))

    def _announced(self, pods: Iterable[PodKey]) -> None:
        self.events.append(("announced", sorted(pod.name for pod in pods)))

    def run(self, *steps: Callable[[], Awaitable[Any]]) -> list[Any]:
        async def all_of_them() -> list[Any]:
            return [await step() for step in steps]

        return asyncio.run(all_of_them())

    def start(self) -> None:
        self.run(self.enroller.take_over, self.enroller.adopt)

    def enroll(
        self,
        number: int,
        name: str,
        *,
        keep_for_s: float = 0.0,
        wait_s: float = 0.0,
        is_honest: bool | None = None,
    ) -> Any:
        asked = replace(wish(number, name), asked=Asked(is_honest))
        (answer,) = self.run(lambda: self.enroller.enroll(asked, keep_for_s=keep_for_s, wait_s=wait_s))
        return answer

    def unenroll(self, name: str) -> None:
        self.run(lambda: self.enroller.unenroll(PodKey("apps", name)))

    def refresh(self) -> None:
        self.run(self.enroller.refresh)

    def mesh_says(self, *workloads: Any) -> None:
        """The new state, and the certificates that it calls for."""
        self.store.swap(mesh.snapshot(*workloads), Changes(workloads=frozenset({"x"})))
        self.refresh()
        self.refresh()

    def pods(self) -> list[str]:
        return sorted(map(str, self.captures.pods))

    def troubles(self) -> list[tuple[Missing, str]]:
        return [(each.missing, str(each.pod)) for each in self.captures.troubles]

    def announced(self) -> list[str]:
        """What the control plane heard last."""
        rows: list[list[str]] = [row for kind, row in self.events if kind == "announced"]
        return rows[-1] if rows else []


def moved(found: Place, number: int, *, namespace: int | None = None) -> Place:
    """The same addresses on another interface, in the same namespace or another."""
    inode = number if namespace is None else namespace
    return replace(
        found, ifindex=number, ifname=f"veth{number}", namespace=NamespaceId(inode, inode), nsid=inode
    )
