"""The one mutable cell of the control plane: the current state, and who wants to hear that it changed.

Policies are archived by version for as long as the
process lives: the order of pushes depends on what a client that comes back held before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.serve.access import Code, Refused
from agent.controlplane.translate.resources import Resource, Snapshot
from agent.pb import authorization_pb2 as authz

ARCHIVE_LIMIT = 20000


@dataclass(frozen=True, slots=True)
class State:
    """What the manifests say and what is served for them. `trust_domain` is that of identities."""

    inventory: Inventory = field(default_factory=Inventory)
    snapshot: Snapshot = field(default_factory=Snapshot)
    trust_domain: str = ""


class Bell:
    """Tells all who listen that something changed; each has an event of its own, so that a slow one holds up nobody."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()

    def ring(self) -> None:
        for event in self._listeners:
            event.set()

    @contextmanager
    def listen(self) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)


class Publisher:
    """Holds the state; None until the manifests were read whole for the first time, and `missing` says why.

    `bell` rings when the served resources or `missing` change, and at the end.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self.missing = "the manifests were not read yet"
        self.is_closing = False
        self.archive: dict[str, authz.Authorization] = {}
        self.bell = Bell()

    def publish(self, state: State) -> bool:
        """Swap the state in; returns whether the served resources changed."""
        self.missing = "there is no Pod, Service or policy to serve"
        changed = self.state is None or _is_other(self.state.snapshot, state.snapshot)
        self.state = state
        for policy in state.snapshot.policies.values():
            self.archive.setdefault(policy.resource.version, policy.message)
        while len(self.archive) > ARCHIVE_LIMIT:
            self.archive.pop(next(iter(self.archive)))
        if changed:
            self.bell.ring()
        return changed

    @property
    def serves_something(self) -> bool:
        return self.state is not None and bool(self.state.snapshot.addresses or self.state.snapshot.policies)

    def current(self) -> State:
        """The state. Raises Refused while there is none."""
        if self.state is None:
            raise Refused(Code.UNAVAILABLE, f"nothing is served yet: {self.missing}")
        return self.state

    def wait(self, missing: str) -> None:
        """Say why nothing is served yet."""
        self.missing = missing
        self.bell.ring()

    def close(self) -> None:
        """Tell every stream to end."""
        self.is_closing = True
        self.bell.ring()


def _is_other(before: Snapshot, after: Snapshot) -> bool:
    """Whether other resources are served."""
    if after.addresses is not before.addresses is after.base:
        return True  # made by a change of just these
    if before.addresses is not after.addresses and _versions(before.addresses) != _versions(after.addresses):
        return True
    return {n: p.resource.version for n, p in before.policies.items()} != {
        n: p.resource.version for n, p in after.policies.items()
    }


def _versions(resources: Mapping[str, Resource]) -> dict[str, str]:
    return {name: resource.version for name, resource in resources.items()}
