"""istio-cni as a source of wishes: connects, answers, connects again, and says how that stands.

What it named holds while it is away: an outage lets nobody go. After the next snapshot pods that are not in it end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random

from agent.enroll.handed import HandedNamespaces
from agent.enroll.source import Claim
from agent.enroll.wish import PodKey, WantedBy
from agent.model.backoff import Backoff
from agent.wire.zds import HELLO, Conversation, ZdsViolation, ack
from agent.zds.intake import Admitting, Intake, Refused
from agent.zds.packets import Packet, PacketSocket
from agent.zds.roster import Roster

log = logging.getLogger(__name__)

BACKOFF = Backoff(first_s=0.02, cap_s=5.0)
ANSWER_S = 4.5
"""istio-cni waits 5 s for one."""
REMEDY = (
    "pods that it named before stay as they are, and no new one starts: is the istio-cni DaemonSet ready on this node, "
    "and the directory of its socket mounted here?"
)


class ZdsSource:
    """A PodSource. `since_s`: wall-clock time of the last change of `is_connected`.

    `requests` counts what was asked, by kind and by whether it was done. `admission` must be there before `run`.
    """

    wanted_by = WantedBy.ISTIO_CNI
    way_out = "`kubectl label pod -n NAMESPACE NAME istio.io/dataplane-mode=none` has istio-cni take it back."

    def __init__(
        self,
        path: str,
        handed: HandedNamespaces,
        rng: Random,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.admission: Admitting | None = None
        self.requests: Counter[tuple[str, str]] = Counter()
        self.is_connected = False
        self.has_snapshot = False
        """Whether this connection has named all pods."""
        self.since_s = wall()
        self._handed = handed
        self._rng = rng
        self._wall = wall
        self._clock = clock
        self._roster = Roster()
        self._refusals: Mapping[str, str] = {}
        self._error = "not tried yet"

    @property
    def knows_all(self) -> bool:
        return self._roster.is_complete

    @property
    def pods(self) -> int:
        """How many it has named."""
        return len(self._roster.pods)

    @property
    def error(self) -> str:
        """Why the last connection ended, or there is none; empty since the snapshot of this one."""
        return self._error

    @property
    def problem(self) -> str:
        if not self.is_connected:
            return f"istio-cni cannot be reached at {self.path}: {self._error}; {REMEDY}"
        if not self.has_snapshot:
            before = f" (before: {self._error})" if self._error else ""
            return f"istio-cni at {self.path} has not named all pods yet{before}; those of before stay as they are"
        if self._refusals:
            texts = list(self._refusals.values())
            more = f", and {len(texts) - 1} more" if len(texts) > 1 else ""
            return f"istio-cni was told: {texts[0]}{more}; it asks again, and the pod's Events say so too"
        return ""

    def claims(self) -> Mapping[PodKey, Claim] | None:
        return self._roster.claims()

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Nobody needs to be told: whoever asks for a change has it followed at once."""

    def turned(self) -> None:
        if self.admission is not None:
            self._roster.settle(self.admission.wishes)

    async def run(self) -> None:
        """Until cancelled."""
        assert self.admission is not None
        intake = Intake(self._roster, self._handed, self.admission)
        self._refusals = intake.refusals
        failures = 0
        while True:
            try:
                await self._converse(intake)
                self._error = "it closed the connection"
            except OSError as error:
                self._error = error.strerror or str(error)
            except ZdsViolation as error:
                self._error = str(error)
            failures = 1 if self.has_snapshot else failures + 1
            if self.is_connected or failures == 1:
                log.warning("istio-cni at %s: %s; connecting again", self.path, self._error)
            self._set_connected(is_connected=False)
            await asyncio.sleep(BACKOFF.delay_s(failures, self._rng))

    async def _converse(self, intake: Intake) -> None:
        """One connection, until it ends. Raises OSError, ZdsViolation."""
        sock = PacketSocket(self.path)
        try:
            sock.send(HELLO)
            self._set_connected(is_connected=True)
            self._roster.begin()
            intake.refusals.clear()
            conversation = Conversation()
            while (packet := await sock.receive()) is not None:
                asked_s = self._clock()
                with packet:
                    error = await self._answer(intake, conversation, packet, sock)
                if self._clock() - asked_s > ANSWER_S:
                    # It would be taken for the answer to the next request.
                    raise TimeoutError(
                        f"an answer took more than {ANSWER_S:g} s: nobody waits for it any more"
                    )
                sock.send(ack(error))
                if conversation.has_snapshot and not self.has_snapshot:
                    self.has_snapshot, self._error = True, ""
                    log.info("istio-cni at %s has named all pods: %d", self.path, self.pods)
        finally:
            sock.close()

    async def _answer(
        self, intake: Intake, conversation: Conversation, packet: Packet, sock: PacketSocket
    ) -> str:
        """What could not be done; empty: it is done. Raises ZdsViolation, when its text has been sent."""
        try:
            request = conversation.receive(packet.data, packet.descriptors, is_cut=packet.is_cut)
        except ZdsViolation as violation:
            self.requests["unknown", "refused"] += 1
            sock.send(ack(str(violation)))
            raise
        kind = type(request).__name__.lower()
        try:
            await intake.carry_out(request, packet)
        except Refused as refusal:
            self.requests[kind, "refused"] += 1
            log.warning("%s: %s", request, refusal)
            return str(refusal)
        self.requests[kind, "done"] += 1
        return ""

    def _set_connected(self, *, is_connected: bool) -> None:
        if is_connected is not self.is_connected:
            self.is_connected, self.since_s = is_connected, self._wall()
        self.has_snapshot = False
