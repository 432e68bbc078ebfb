"""Every live connection of this worker, so that a change of policy or of the pods can end it.

An inbound connection is registered before it is judged: a policy that arrives between the two still finds
it. Re-evaluation judges the current workload by current policy, not those captured at the start; a
destination that has vanished from the snapshot ends its connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from agent.model.address import IP, SocketAddress
from agent.model.connection import Connection, Direction
from agent.model.outcome import Outcome
from agent.model.steps import Steps, each
from agent.model.unit import BadUnit, State, StateReader
from agent.model.unit_values import direction, identity_or_none, ip, socket_address, told
from agent.policy.evaluate import evaluate
from agent.proxy.seat import Seat
from agent.state.apply import Changes
from agent.state.passage import Passages
from agent.state.snapshot import Snapshot

WAITING, SOCKS5 = "WAITING", "SOCKS5"
"""In place of a protocol, of those that are on their way nowhere yet: what they dial is not known to the mesh state, or
they have not said what they want."""


class LiveOwner(Protocol):
    def close(self, outcome: Outcome, detail: str) -> None:
        """End the connection at once."""


class _Nobody:
    """Of one that is not made yet."""

    def close(self, outcome: Outcome, detail: str) -> None:
        raise AssertionError("it was registered before it was made")


class Live:
    """What is known of one live connection; `owner` ends it.

    `pod` is the address of the enrolled pod at our end, `original` what the client dialled: for a tunnel its
    authority's address.
    """

    # No dataclass: one is made of every connection, and what the decorator writes is not compiled.
    __slots__ = (
        "actual",
        "connection",
        "destination_uid",
        "direction",
        "original",
        "owner",
        "pod",
        "protocol",
        "seat",
        "service",
        "source",
    )

    def __init__(
        self,
        direction: Direction,
        pod: IP,
        source: SocketAddress,
        original: SocketAddress,
        actual: SocketAddress,
        protocol: str,
        owner: LiveOwner,
        destination_uid: str = "",
        connection: Connection | None = None,
    ) -> None:
        self.direction = direction
        self.pod = pod
        self.source = source
        self.original = original
        self.actual = actual
        self.protocol = protocol
        self.owner = owner
        self.destination_uid = destination_uid
        self.connection = connection
        """The facts policy judges; None where there is nothing to judge (outbound)."""
        self.seat: Seat | None = None
        """Where limits count it; made anew of the rest in another process."""
        self.service = ""
        """Host name of the Service that was asked for, where the other end has said so and it is one of this pod's."""

    def state(self) -> State:
        """All of it but the owner."""
        facts = self.connection
        return {
            "direction": self.direction.value,
            "pod": str(self.pod),
            "source": str(self.source),
            "original": str(self.original),
            "actual": str(self.actual),
            "protocol": self.protocol,
            "destination_uid": self.destination_uid,
            "service": self.service,
            "facts": None
            if facts is None
            else {
                "source": str(facts.source),
                "destination": str(facts.destination),
                "identity": told(facts.identity),
                "network": facts.network,
            },
        }

    @classmethod
    def from_state(cls, fields: StateReader) -> Live:
        """Who makes an owner of it sets that. Raises BadUnit."""
        live = cls(
            direction(fields, "direction"),
            ip(fields, "pod"),
            socket_address(fields, "source"),
            socket_address(fields, "original"),
            socket_address(fields, "actual"),
            fields.text("protocol"),
            _Nobody(),
            fields.text("destination_uid"),
        )
        live.service = fields.text("service")
        if fields.has("facts"):
            facts = fields.within("facts")
            live.connection = Connection(
                socket_address(facts, "source"),
                socket_address(facts, "destination"),
                identity_or_none(facts, "identity"),
                facts.text("network"),
            )
            facts.done()
        fields.done()
        if live.direction is Direction.INBOUND and (live.connection is None or not live.destination_uid):
            raise BadUnit("an inbound connection that no policy could judge")
        return live


class Registry:
    """The connections, and what ends them. `enforces_waypoint`: also that they do not come through one any more."""

    def __init__(self, limit: int, *, enforces_waypoint: bool = False) -> None:
        self._live: set[Live] = set()
        self._limit = limit
        self.enforces_waypoint = enforces_waypoint

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._live))

    @property
    def is_full(self) -> bool:
        return len(self._live) >= self._limit

    def add(self, live: Live) -> None:
        self._live.add(live)

    def remove(self, live: Live) -> None:
        self._live.discard(live)

    def reevaluate(self, snapshot: Snapshot, changes: Changes) -> Steps[int]:
        """Close what the new snapshot no longer allows; answers how many.

        In steps: what comes meanwhile was judged by the new snapshot already, for it is the current one.
        """
        everything = bool(changes.policies)
        # A Service that takes a waypoint, or a waypoint that is none any more, is no change of the destination itself.
        is_passage_new = self.enforces_waypoint and bool(changes.services or changes.workloads)
        if not everything and not changes.workloads and not is_passage_new:
            return 0
        passages = Passages(snapshot) if is_passage_new else None
        closed = 0

        def judge(live: Live) -> None:
            nonlocal closed
            connection = live.connection
            if connection is None or live not in self._live:
                return
            ends: tuple[Outcome, str] | None = None
            if everything or live.destination_uid in changes.workloads:
                ends = verdict(snapshot, live, connection)
            if ends is None and passages is not None:
                reason = passages.bypassed(connection, live.destination_uid)
                ends = (Outcome.WAYPOINT_BYPASSED, reason) if reason else None
            if ends is not None:
                live.owner.close(*ends)
                closed += 1

        yield from each(tuple(self._live), judge)
        return closed

    def close_pod(self, addresses: frozenset[IP]) -> None:
        """End every connection of a pod that left the mesh."""
        for live in [live for live in self._live if live.pod in addresses]:
            live.owner.close(Outcome.POD_REMOVED, "the pod left the mesh")

    def close_all(self, outcome: Outcome, detail: str) -> None:
        for live in tuple(self._live):
            live.owner.close(outcome, detail)


def verdict(snapshot: Snapshot, live: Live, connection: Connection) -> tuple[Outcome, str] | None:
    """Why a live connection must end now, or None."""
    workload = snapshot.workloads.get(live.destination_uid)
    if workload is None:
        return Outcome.POD_REMOVED, "the control plane removed the destination workload"
    decision = evaluate(connection, workload, snapshot)
    if decision.allowed:
        return None
    return Outcome.POLICY_CHANGED, f"connection closed due to policy change: {decision.reason}"
