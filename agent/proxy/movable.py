"""What goes from one worker process to its successor, as both ends of that see it.

A unit of movement is what cannot be parted: a connection of HBONE with all its tunnels, a relay with its two sockets, a
connection that waits. The giver freezes it, which takes it out of everything here: it is not watched, registered or
counted, and its sockets stay open. Then either another process has it, and here its descriptors are closed; or nobody
has, and it is made again of the very same state, as the other would have done. The taker builds it, and starts it only
when the giver has let go.

Nothing of a frozen unit may end in a way that its peers see: the sockets are shared with another process by then.
So no shutdown(2), and no close() with another SO_LINGER than they have.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from agent.model.outcome import Outcome, Refusal, Unknown
from agent.model.route import Hop
from agent.model.unit import BadUnit, PlainValue, State, StateReader, Unit, decode, encode
from agent.proxy.life import Recorded
from agent.proxy.registry import Live, verdict
from agent.state.passage import bypassed
from agent.state.resolve import resolve
from agent.telemetry.past import Past

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

Ends = tuple[Outcome, str]
Thaw = Callable[["DataPlane", Unit, Sequence[int]], "Thawed"]
log = logging.getLogger(__name__)
LEFT = "the pod left the mesh"


class Movable(Protocol):
    """Called in this order: `freeze`, and then one of the other two, each from the loop and once."""

    @property
    def size_hint(self) -> int:
        """About how many bytes its state has now: what waits for who does not read is most of that."""

    def freeze(self) -> tuple[Unit, list[int]]:
        """Its state and its descriptors, which stay this object's.

        Raises StaysHere; then it goes on as if nothing had been asked.
        """

    def take_back(self) -> None:
        """Nobody has it: go on here, by what policy and pods are now."""

    def let_go(self) -> None:
        """Another process has it: close the descriptors here, and nothing else."""


class Thawed(Protocol):
    """Built, and not started. One of the two is called, once."""

    def start(self) -> None:
        """Go on with it: registered, judged by what is known here now, and ended at once where that forbids it."""

    def drop(self) -> None:
        """It goes on elsewhere: close the descriptors here, and nothing else."""


class Immovable(NamedTuple):
    """What cannot travel, for the log."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


class Sockets:
    """The sockets of a unit that arrived, in the order in which its parts take them. Those not taken are closed."""

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = list(fds)
        self._taken: list[socket.socket] = []

    def take(self) -> socket.socket:
        """The next one. Raises BadUnit."""
        if not self._fds:
            raise BadUnit("a unit with too few descriptors")
        try:
            sock = socket.socket(fileno=self._fds[0])
        except OSError as error:
            raise BadUnit(f"a unit with a descriptor that is no socket: {error}") from error
        del self._fds[0]
        self._taken.append(sock)
        sock.setblocking(False)
        return sock

    def done(self) -> None:
        """All were taken. Raises BadUnit."""
        if self._fds:
            raise BadUnit(f"a unit with {len(self._fds)} descriptors too many")

    def close(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                socket.close(fd)
        for sock in self._taken:
            sock.close()
        self._fds, self._taken = [], []


class Standing:
    """The registry entry and the record of a connection that goes on here, until it is started."""

    def __init__(self, recorded: Recorded, live: Live, past: Past, owner: Sequence[str]) -> None:
        self.recorded = recorded
        self._live = live
        self._past = past
        self._owner = tuple(owner)

    @staticmethod
    def state(plane: DataPlane, recorded: Recorded) -> State:
        """Takes it out of registry and figures here."""
        pod = plane.pods.at(recorded.pod)
        # Without one it has left: nobody's it is, whoever has the address by the time the other looks.
        return {"pod": () if pod is None else pod.owner, **recorded.hand_on()}

    @classmethod
    def from_state(cls, fields: StateReader, make: Callable[[Live], Recorded]) -> Standing:
        """`make` makes the connection of what is known of it. Raises BadUnit, and what `make` does."""
        live = Live.from_state(fields.within("live"))
        past = Past.from_state(fields.within("record"))
        if past.opened.direction is not live.direction:
            raise fields.refuse("record", "it is of the other direction")
        pod = fields.texts("pod", 3)
        fields.done()
        recorded = live.owner = make(live)
        return cls(recorded, live, past, pod)

    def start(self, plane: DataPlane) -> Ends | None:
        """Registered and counted; why it must end now, or None."""
        self.recorded.take_up(self._live, self._past)
        plane.limiter.resume(self._live, is_parked=True)
        pod = plane.pods.at(self._live.pod)
        if pod is None or pod.owner != self._owner:
            return Outcome.POD_REMOVED, LEFT
        return judged(plane, self._live)


def take_back(plane: DataPlane, unit: Unit, fds: Sequence[int], thaw: Thaw) -> None:
    """Go on here with what nobody has, by the very same state. Where that fails, by a defect, it ends as one."""
    try:
        thaw(plane, decode(encode(unit)), fds).start()
    except (BadUnit, Refusal) as error:
        log.error("a %s that stays cannot be gone on with: %s", unit.kind, error)
        for past in pasts(unit.fields):
            plane.reporter.resumed(past).finish(Outcome.INTERNAL, str(error))


def pasts(value: PlainValue) -> Iterator[Past]:
    """The records in a unit of ours."""
    if isinstance(value, Mapping):
        if "record" in value:
            yield Past.from_state(
                StateReader("a record", decode(encode(Unit("", dict(value)))).fields["record"])
            )
        else:
            for each in value.values():
                yield from pasts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from pasts(each)


def judged(plane: DataPlane, live: Live) -> Ends | None:
    """Why policy of now ends it, or None."""
    connection, snapshot = live.connection, plane.store.current
    if connection is None:
        return _refused(plane, live) if live.protocol == Hop.PASSTHROUGH.value else None
    ends = verdict(snapshot, live, connection)
    if ends is None and plane.registry.enforces_waypoint:
        workload = snapshot.workloads[live.destination_uid]
        if reason := bypassed(snapshot, connection, workload, is_open=True):
            return Outcome.WAYPOINT_BYPASSED, reason
    return ends


def _refused(plane: DataPlane, live: Live) -> Ends | None:
    """Why the options of this worker end what passes through, which those of another let; or None.

    A destination that has become known since ends nothing here either, whatever is dialled there now.
    """
    outbound, snapshot = plane.outbound, plane.store.current
    try:
        source = plane.pods.workload(snapshot, live.pod, is_source=True)
        resolve(snapshot, source, live.original, outbound.rng, outbound.options)
    except Refusal as refusal:
        is_asked_first = isinstance(refusal, Unknown) and not refusal.is_final
        if refusal.outcome is Outcome.UNKNOWN_MESH_DESTINATION and not is_asked_first:
            return refusal.outcome, refusal.detail
    return None
