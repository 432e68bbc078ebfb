"""The control process's copy of the mesh state, and its way to the workers.

Resources come from xDS as bytes. They are decoded here once, to refuse what cannot be used; what is accepted
goes into the store and, unchanged, to every worker. Only when all workers judge by it is the response
acknowledged: a control plane that waits for the acknowledgement knows that a policy is in force.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple, TypeVar

from agent import channel
from agent.channel import Message
from agent.defects import Defects
from agent.model.address import CIDR, NetworkAddress
from agent.model.policy import Authorization, RefusedPolicy
from agent.model.refused_addresses import RefusedAddresses
from agent.model.service import CidrVip, Service
from agent.model.steps import Steps, each, goes_on
from agent.model.workload import Workload
from agent.state.apply import NO_CHANGES, Batch, address_name, service_key
from agent.state.store import Store
from agent.wire.xds_decode import (
    DecodeError,
    decode_address,
    decode_authorization,
    refused_policy,
)
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, Received
from agent.wire.xds_encode import encode_address
from agent.wire.xds_refused import readable_addresses

log = logging.getLogger(__name__)
defects = Defects(log)

PART = 256
"""Resources in one message to a worker."""

Raw = Mapping[str, bytes]
T = TypeVar("T")


class Refused(NamedTuple):
    """A resource that cannot be used: why, and its bytes."""

    reason: str
    raw: bytes


class _Tell(NamedTuple):
    """What workers have to hear of a change: bytes by name, and names; of what is refused they hear with it."""

    updates: Raw
    removed: Sequence[str]


class MeshState:
    """Accepted policies by name, and what is refused; the rest is in the store."""

    def __init__(
        self,
        store: Store,
        broadcast: Callable[[Message], None],
        applied: Callable[[int], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`settled` is called when all workers judge by the current state, as the store's listeners know it."""
        self.store = store
        self._settled = settled
        self._clock = clock
        self._one_change = asyncio.Lock()
        self._broadcast = broadcast
        self._applied = applied
        self._policies: dict[str, bytes] = {}
        self._refused: dict[str, dict[str, Refused]] = {ADDRESS: {}, AUTHORIZATION: {}}
        self._revision = 0

    @property
    def revision(self) -> int:
        return self._revision

    def refused(self, type_url: str) -> dict[str, str]:
        """Resources of a type that the control plane holds and that cannot be used: name -> reason."""
        return {name: each.reason for name, each in self._refused[type_url].items()}

    @property
    def problem(self) -> str:
        """What is refused for want of knowing who it is about; empty: nothing."""
        if not self.store.current.refused_addresses.is_anything:
            return ""
        blind = [name for name, one in self._refused[ADDRESS].items() if is_anything(one, self._held(name))]
        if not blind:
            return ""  # it was just told; what is refused now is noted in a moment
        more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
        return (
            f"pods reach nothing that the mesh does not know: the control plane describes {blind[0]}{more} in a way "
            "that not even its addresses can be read of; correct or remove that, or upgrade this agent if it is older"
        )

    async def accept_response(self, received: Received) -> dict[str, str]:
        """What the xDS client calls with each response."""
        updates = {resource.name: resource.body for resource in received.updates}
        return await self.accept(received.type_url, updates, received.removed, is_first=received.is_first)

    async def accept(
        self, type_url: str, updates: Raw, removed: Sequence[str], *, is_first: bool = False
    ) -> dict[str, str]:
        """Apply a response; answers the resources refused, with reasons. Returns when all workers follow.

        A refused resource leaves the version before it in force; so does a defect of ours, which refuses all of it.
        `is_first`: what was refused before comes again or is gone. Many resources go in slices: whoever asks this
        process something meanwhile is answered.
        """
        async with self._one_change:
            base = self.store.current
            try:
                refused, tell = await self._take(type_url, updates, removed, is_first=is_first)
            except Exception as error:  # noqa: BLE001 - told, and answered as the reason
                # Whoever listens may have heard of some of it. It hears of it again when it can be taken.
                self.store.swap(base, NO_CHANGES)
                reason = defects.note(f"a response of type {type_url} cannot be applied", error)
                refused = dict.fromkeys((*updates, *removed), reason)
                tell = await self._refuse(type_url, {n: Refused(reason, raw) for n, raw in updates.items()})
            if tell is not None:
                self._revision += 1
                for message in self._messages(
                    type_url, tell.updates.items(), len(tell.updates), tell.removed
                ):
                    self._broadcast(message)
                await self._applied(self._revision)
            self._settled()
        return refused

    async def _take(
        self, type_url: str, updates: Raw, removed: Sequence[str], *, is_first: bool
    ) -> tuple[dict[str, str], _Tell | None]:
        """Put a response into the state: what of it is refused, and what workers are to be told; None: nothing."""
        decoded, refused = await self._in_slices(decoding(type_url, updates))
        over = decoded.keys() | set(removed)
        standing = {} if is_first else {n: r for n, r in self._refused[type_url].items() if n not in over}
        standing |= {name: Refused(reason, updates[name]) for name, reason in refused.items()}
        # Workers judge by what is refused too: policies in force nowhere deny, no address is spoken to in clear.
        is_new_for_workers = type_url == AUTHORIZATION and standing != self._refused[type_url]
        names = tuple(decoded)
        batch = self._with_refused(batch_of(type_url, decoded, removed), type_url, standing)
        changes = await self._in_slices(self.store.applying(batch))
        # From here on at once: a worker that comes now is told the whole of it, or else what was before.
        changed = {*changes.workloads, *changes.policies, *map(str, changes.services)}
        fresh = {name: updates[name] for name in names if name in changed}
        gone = [name for name in removed if name in changed]
        self._refused[type_url] = standing
        if type_url == AUTHORIZATION:
            self._policies.update(fresh)
            for name in gone:
                self._policies.pop(name, None)
        is_told = bool(fresh or gone or is_new_for_workers or changes.are_others_refused)
        return refused, _Tell(fresh, gone) if is_told else None

    async def _refuse(self, type_url: str, refused: Mapping[str, Refused]) -> _Tell:
        """Go on by what there is, with these refused beside what was refused before."""
        standing = {**self._refused[type_url], **refused}
        try:
            batch = self._with_refused(Batch(), type_url, standing)
        except Exception as error:  # noqa: BLE001 - told; without their bytes they may be anybody, or be about anybody
            defects.note(f"what is refused of type {type_url} cannot be read", error)
            standing |= {name: Refused(one.reason, b"") for name, one in refused.items()}
            batch = self._with_refused(Batch(), type_url, standing)
        try:
            await self._in_slices(self.store.applying(batch))
        except Exception as error:  # noqa: BLE001 - told; the state is there, and workers are told of it
            defects.note(f"of what is refused of type {type_url} not everybody could be told", error)
        self._refused[type_url] = standing
        return _Tell({}, [])

    def _with_refused(self, batch: Batch, type_url: str, standing: Mapping[str, Refused]) -> Batch:
        if type_url == AUTHORIZATION:
            return replace(batch, refused_authorizations=refused_policies(standing))
        return replace(batch, refused_addresses=refused_addresses(standing, self._held))

    def brief(self, send: Callable[[Message], None]) -> None:
        """Send a worker that has just come everything there is."""
        snapshot = self.store.current
        resources: Iterator[Workload | Service] = chain(
            snapshot.workloads.values(), snapshot.services.values()
        )
        addresses = ((address_name(resource), encode_address(resource)) for resource in resources)
        count = len(snapshot.workloads) + len(snapshot.services)
        for message in self._messages(AUTHORIZATION, self._policies.items(), len(self._policies), full=True):
            send(message)
        for message in self._messages(ADDRESS, addresses, count, full=True):
            send(message)

    async def _in_slices(self, work: Steps[T]) -> T:
        """The result of long work, with other tasks served in between."""
        results: list[T] = []

        def steps() -> Iterator[None]:
            results.append((yield from work))

        rest = steps()
        while goes_on(rest, self._clock):  # noqa: ASYNC110 - nothing is waited for
            await asyncio.sleep(0)
        return results[0]

    def _messages(
        self,
        type_url: str,
        updates: Iterable[tuple[str, bytes]],
        count: int,
        removed: Sequence[str] = (),
        *,
        full: bool = False,
    ) -> Iterator[channel.Resources]:
        """One change of so many updates, in parts that a worker takes in its stride."""
        refused = refused_policies(self._refused[AUTHORIZATION] if type_url == AUTHORIZATION else {})
        rows = tuple((name, r.reason, r.scope.value, r.namespace, r.dry_run) for name, r in refused.items())
        unusable = tuple(self.store.current.refused_addresses.texts()) if type_url == ADDRESS else ()
        rest = iter(updates)
        while count > PART:
            part, count = tuple(islice(rest, PART)), count - PART
            yield channel.Resources(self._revision, type_url, part, full=full, is_last=False)
        yield channel.Resources(self._revision, type_url, tuple(rest), removed, full, rows, unusable)

    def _held(self, name: str) -> Workload | Service | None:
        """The workload or the service of this name that is in force."""
        snapshot = self.store.current
        key = service_key(name)
        service = snapshot.services.get(key) if key is not None else None
        return snapshot.workloads.get(name) or service


def refused_addresses(
    refused: Mapping[str, Refused], held: Callable[[str], Workload | Service | None]
) -> RefusedAddresses:
    """Of workloads and services that cannot be used: each that can be read, but for those of the version in force.

    Where some cannot, and nothing is known of it from before either, it may have any address.
    """
    exact: set[NetworkAddress] = set()
    ranges: set[tuple[str, CIDR]] = set()
    for name, each_one in refused.items():
        found, before = readable_addresses(each_one.raw), held(name)
        for address in found.addresses:
            if before is not None and is_of(before, address):
                continue
            if isinstance(address, NetworkAddress):
                exact.add(address)
            else:
                ranges.add((address.network, address.cidr))
    is_any = any(is_anything(each_one, held(name)) for name, each_one in refused.items())
    return RefusedAddresses(frozenset(exact), tuple(sorted(ranges, key=str)), is_any)


def is_anything(refused: Refused, before: Workload | Service | None) -> bool:
    """Whether this may have whatever address nobody has."""
    return before is None and not readable_addresses(refused.raw).is_whole


def is_of(held: Workload | Service, address: NetworkAddress | CidrVip) -> bool:
    """Whether what is in force says already who has this address, or all of this range."""
    if isinstance(held, Workload):
        return isinstance(address, NetworkAddress) and (
            address.network == held.network and address.ip in held.addresses
        )
    if isinstance(address, NetworkAddress):
        return address in held.vips or any(
            address.network == each.network and address.ip in each.cidr for each in held.cidr_vips
        )
    return any(
        address.network == vip.network
        and address.cidr.version == vip.cidr.version
        and address.cidr.subnet_of(vip.cidr)  # type: ignore[arg-type]
        for vip in held.cidr_vips
    )


def refused_policies(refused: Mapping[str, Refused]) -> dict[str, RefusedPolicy]:
    """What is known of policies that cannot be used."""
    return {name: refused_policy(r.raw, r.reason) for name, r in refused.items()}


def decoding(
    type_url: str, updates: Raw
) -> Steps[tuple[dict[str, Workload | Service | Authorization], dict[str, str]]]:
    """Every resource that can be used, and why the others cannot; in steps."""
    decode = decode_address if type_url == ADDRESS else decode_authorization
    decoded: dict[str, Workload | Service | Authorization] = {}
    refused: dict[str, str] = {}

    def take(update: tuple[str, bytes]) -> None:
        name, raw = update
        try:
            value = decode(name, raw)
            check_name(name, value)
        except DecodeError as error:
            refused[name] = str(error).removeprefix(f"{name}: ")
            log.warning("refused resource %s: %s", name, error)
        except Exception as error:  # noqa: BLE001 - told, and answered as the reason
            refused[name] = defects.note(f"resource {name} cannot be read", error)
        else:
            decoded[name] = value

    yield from each(updates.items(), take)
    return decoded, refused


def check_name(name: str, value: Workload | Service | Authorization) -> None:
    """A resource under another's name could not be removed by its own. Raises DecodeError."""
    inside = (
        value.uid if isinstance(value, Workload) else str(value.key) if isinstance(value, Service) else name
    )
    if inside != name:
        raise DecodeError(f"it calls itself {inside}")


def batch_of(
    type_url: str,
    decoded: dict[str, Workload | Service | Authorization],
    removed: Iterable[str],
) -> Batch:
    """A batch that takes what was decoded with it, address by address."""
    if type_url == ADDRESS:
        taken = map(decoded.pop, tuple(decoded))
        addresses = (each for each in taken if not isinstance(each, Authorization))
        return Batch(addresses=addresses, removed_addresses=tuple(removed))
    policies = tuple((name, v) for name, v in decoded.items() if isinstance(v, Authorization))
    return Batch(authorizations=policies, removed_authorizations=tuple(removed))
