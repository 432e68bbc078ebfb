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
from itertools import islice
from typing import NamedTuple, TypeVar

from agent import channel
from agent.channel import Message
from agent.model.policy import Authorization, RefusedPolicy
from agent.model.service import Service
from agent.model.steps import Steps, each, goes_on
from agent.model.workload import Workload
from agent.state.apply import Batch
from agent.state.store import Store
from agent.wire.xds_decode import DecodeError, decode_address, decode_authorization, refused_policy
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, Received

log = logging.getLogger(__name__)

TYPES = (AUTHORIZATION, ADDRESS)
"""In the order a worker gets them: policies before the workloads that name them."""

PART = 256
"""Resources in one message to a worker."""

Raw = Mapping[str, bytes]
T = TypeVar("T")


class Refused(NamedTuple):
    """A resource that cannot be used: why, and its bytes."""

    reason: str
    raw: bytes


class MeshState:
    """Accepted resources by type and name, with the decoded snapshot beside them."""

    def __init__(
        self,
        store: Store,
        broadcast: Callable[[Message], None],
        applied: Callable[[int], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._clock = clock
        self._one_change = asyncio.Lock()
        self._broadcast = broadcast
        self._applied = applied
        self._raw: dict[str, dict[str, bytes]] = {ADDRESS: {}, AUTHORIZATION: {}}
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
            held = self._raw[type_url]
            fresh = {name: updates[name] for name in decoded if held.get(name) != updates[name]}
            gone = [name for name in removed if name in held]
            over = decoded.keys() | set(removed)
            standing = {} if is_first else {n: r for n, r in self._refused[type_url].items() if n not in over}
            standing |= {name: Refused(reason, updates[name]) for name, reason in refused.items()}
            # Workers judge by refused policies too: those that are in force nowhere deny.
            is_new_for_workers = type_url == AUTHORIZATION and standing != self._refused[type_url]
            if fresh or gone or is_new_for_workers:
                values = {name: decoded[name] for name in fresh}
                policies = refused_policies(standing if type_url == AUTHORIZATION else {})
                await self._in_slices(self.store.applying(batch_of(type_url, values, gone, policies)))
            # From here on at once: a worker that comes now is told the whole of it, or else what was before.
            self._refused[type_url] = standing
            if fresh or gone or is_new_for_workers:
                held.update(fresh)
                for name in gone:
                    del held[name]
                self._revision += 1
                for message in self._messages(type_url, fresh, gone):
                    self._broadcast(message)
                await self._applied(self._revision)
        return refused

    def brief(self, send: Callable[[Message], None]) -> None:
        """Send a worker that has just come everything there is."""
        for type_url in TYPES:
            for message in self._messages(type_url, self._raw[type_url], full=True):
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
        self, type_url: str, updates: Raw, removed: Sequence[str] = (), *, full: bool = False
    ) -> Iterator[channel.Resources]:
        """One change, in parts that a worker takes in its stride."""
        refused = refused_policies(self._refused[AUTHORIZATION] if type_url == AUTHORIZATION else {})
        rows = tuple((name, r.reason, r.scope.value, r.namespace, r.dry_run) for name, r in refused.items())
        rest = iter(updates.items())
        left = len(updates)
        while left > PART:
            part, left = tuple(islice(rest, PART)), left - PART
            yield channel.Resources(self._revision, type_url, part, full=full, is_last=False)
        yield channel.Resources(self._revision, type_url, tuple(rest), removed, full, rows)


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
    decoded: Mapping[str, Workload | Service | Authorization],
    removed: Iterable[str],
    refused: Mapping[str, RefusedPolicy],
) -> Batch:
    if type_url == ADDRESS:
        addresses = tuple(v for v in decoded.values() if not isinstance(v, Authorization))
        return Batch(addresses=addresses, removed_addresses=tuple(removed))
    policies = tuple((name, v) for name, v in decoded.items() if isinstance(v, Authorization))
    return Batch(
        authorizations=policies, removed_authorizations=tuple(removed), refused_authorizations=refused
    )
