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
from agent.model.policy import Authorization, RefusedPolicy
from agent.model.refused_addresses import ANYTHING, RefusedAddresses
from agent.model.service import Service
from agent.model.steps import Steps, each, goes_on
from agent.model.workload import Workload
from agent.state.apply import Batch, address_name, service_key
from agent.state.store import Store
from agent.wire.xds_decode import (
    DecodeError,
    addresses_of,
    decode_address,
    decode_authorization,
    refused_policy,
)
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, Received
from agent.wire.xds_encode import encode_address

log = logging.getLogger(__name__)

PART = 256
"""Resources in one message to a worker."""

Raw = Mapping[str, bytes]
T = TypeVar("T")


class Refused(NamedTuple):
    """A resource that cannot be used: why, and its bytes."""

    reason: str
    raw: bytes


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

    async def accept_response(self, received: Received) -> dict[str, str]:
        """What the xDS client calls with each response."""
        updates = {resource.name: resource.body for resource in received.updates}
        return await self.accept(received.type_url, updates, received.removed, is_first=received.is_first)

    async def accept(
        self, type_url: str, updates: Raw, removed: Sequence[str], *, is_first: bool = False
    ) -> dict[str, str]:
        """Apply a response; answers the resources refused, with reasons. Returns when all workers follow.

        A refused resource leaves the version before it in force. `is_first`: what was refused before comes again
        or is gone. Many resources go in slices: whoever asks this process something meanwhile is answered.
        """
        async with self._one_change:
            decoded, refused = await self._in_slices(decoding(type_url, updates))
            over = decoded.keys() | set(removed)
            standing = {} if is_first else {n: r for n, r in self._refused[type_url].items() if n not in over}
            standing |= {name: Refused(reason, updates[name]) for name, reason in refused.items()}
            # Workers judge by what is refused too: policies in force nowhere deny, no address is spoken to in clear.
            is_new_for_workers = type_url == AUTHORIZATION and standing != self._refused[type_url]
            names = tuple(decoded)
            batch = batch_of(type_url, decoded, removed)
            if type_url == AUTHORIZATION:
                batch = replace(batch, refused_authorizations=refused_policies(standing))
            else:
                batch = replace(batch, refused_addresses=refused_addresses(standing, self._holds))
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
            if fresh or gone or is_new_for_workers or changes.are_others_refused:
                self._revision += 1
                for message in self._messages(type_url, fresh.items(), len(fresh), gone):
                    self._broadcast(message)
                await self._applied(self._revision)
            self._settled()
        return refused

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

    def _holds(self, name: str) -> bool:
        """Whether a workload or a service of this name is in force."""
        snapshot = self.store.current
        key = service_key(name)
        return name in snapshot.workloads or (key is not None and key in snapshot.services)


def refused_addresses(refused: Mapping[str, Refused], holds: Callable[[str], bool]) -> RefusedAddresses:
    """Of workloads and services that cannot be used, as far as they say so.

    Where one does not, and nothing is known of it from before either, it may have any address.
    """
    texts: list[str] = []
    for name, each_one in refused.items():
        found = addresses_of(each_one.raw)
        texts += (() if holds(name) else (ANYTHING,)) if found is None else found
    return RefusedAddresses.of(texts)


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
