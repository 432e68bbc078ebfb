"""The one mutable cell of the control plane: the current state, and who wants to hear that it changed.

Streams wait on their own event, so a slow client holds up nobody. Policies are archived by version for as long as the
process lives: the order of pushes depends on what a client that comes back held before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.translate.resources import Snapshot
from agent.pb import authorization_pb2 as authz

ARCHIVE_LIMIT = 20000


@dataclass(frozen=True, slots=True)
class State:
    """What the manifests say and what is served for them. `trust_domain` is that of identities."""

    inventory: Inventory = field(default_factory=Inventory)
    snapshot: Snapshot = field(default_factory=Snapshot)
    trust_domain: str = ""


class Publisher:
    """Holds the state; None until the manifests were read whole for the first time."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.is_closing = False
        self.archive: dict[str, authz.Authorization] = {}
        self._listeners: set[asyncio.Event] = set()

    def publish(self, state: State) -> bool:
        """Swap the state in; returns whether the served resources changed."""
        changed = self.state is None or _versions(self.state.snapshot) != _versions(state.snapshot)
        self.state = state
        for policy in state.snapshot.policies.values():
            self.archive.setdefault(policy.resource.version, policy.message)
        while len(self.archive) > ARCHIVE_LIMIT:
            self.archive.pop(next(iter(self.archive)))
        if changed:
            for event in self._listeners:
                event.set()
        return changed

    def close(self) -> None:
        """Tell every stream to end."""
        self.is_closing = True
        for event in self._listeners:
            event.set()

    @contextmanager
    def listen(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever the served resources change, and at the end."""
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)


def _versions(snapshot: Snapshot) -> tuple[dict[str, str], dict[str, str]]:
    return (
        {name: r.version for name, r in snapshot.addresses.items()},
        {name: p.resource.version for name, p in snapshot.policies.items()},
    )
