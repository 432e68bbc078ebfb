"""Keeps a valid certificate for every identity in use on this node, through a Signer.

Fetches by priority, one at a time per identity and a few at once; renews at half of the lifetime; keeps what
is valid when a renewal fails; lets go what expired (docs/WIRE.md#certificates). Keys never leave memory. Knows
nothing of gRPC, workers or connections: it calls `on_credentials` and `on_forget` and shows its state as
data. When is decided in `schedule`, whether an answer is usable in `bundle`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from cryptography import x509

from agent.defects import Defects
from agent.identity.bundle import Issued, read_answer
from agent.identity.csr import make_request
from agent.identity.schedule import SOON, Priority, latest_retry, renewal_time, retry_time
from agent.identity.signer import Signer, SigningError
from agent.model.identity import Identity

log = logging.getLogger(__name__)
defects = Defects(log)

CONCURRENT_FETCHES = 8
# The wall clock may be set, and does not tick while a machine sleeps: look again at least this often.
MAX_WAIT_S = 60.0
SET_BACK_S = 60.0
"""A clock that is so far behind what it has shown was set back; less may be a correction."""

Wait = Callable[[asyncio.Event, float], Awaitable[None]]


class State(Enum):
    INITIALIZING = "Initializing"
    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, slots=True)
class Held:
    """One identity, for status and dumps. Times are seconds since the epoch; `error` is the last one's."""

    identity: Identity
    state: State
    priority: Priority
    next_attempt: float
    failures: int
    error: str
    not_before: float | None
    not_after: float | None
    ended_by: str = ""
    """The authority whose end this is, where that is before the certificate's own."""


@dataclass(slots=True, eq=False)
class _Entry:
    identity: Identity
    priority: Priority
    due: float
    issued: Issued | None = None
    error: str = ""
    is_transient: bool = False
    """Of the last error: it passes by itself."""
    failures: int = 0
    issued_at: float = 0.0
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the first fetch ended, well or not, or the identity was forgotten."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and another in its place, when a fetch failed; of the last one when nothing is waited for any more."""

    @property
    def state(self) -> State:
        if self.issued is not None:
            return State.AVAILABLE
        return State.UNAVAILABLE if self.error else State.INITIALIZING


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event is set or the time is up."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


class Keeper:
    """One per agent. `run` until cancelled; the other methods from the same event loop.

    `clock`: seconds since the epoch. `on_credentials` hears of each new certificate, `on_forget` of an
    identity whose last one must not be used any more: not in use, or expired.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        clock: Callable[[], float],
        rng: Random,
        on_credentials: Callable[[Identity, Issued], None],
        on_forget: Callable[[Identity], None],
        wait: Wait = wait_for_event,
        concurrency: int = CONCURRENT_FETCHES,
    ) -> None:
        self._signer = signer
        self._clock = clock
        self._rng = rng
        self._on_credentials = on_credentials
        self._on_forget = on_forget
        self._wait = wait
        self._concurrency = concurrency
        self._entries: dict[Identity, _Entry] = {}
        self._fetching: set[Identity] = set()
        self._wake = asyncio.Event()
        self._looked_at = -math.inf
        """What the clock said when it was last looked at."""

    def set_in_use(self, identities: Iterable[Identity], priority: Priority = Priority.WARMUP) -> None:
        """These and no others are in use: new ones are fetched, missing ones forgotten."""
        wanted = set(identities)
        for identity in [i for i in self._entries if i not in wanted]:
            self._forget(self._entries.pop(identity))
        now = self._clock()
        for identity in sorted(wanted - self._entries.keys()):
            self._entries[identity] = _Entry(identity, priority, now)
        self._wake.set()

    def hurry(self, identity: Identity, priority: Priority = Priority.REALTIME) -> None:
        """Move a first fetch forward in the queue. Does not shorten a back-off."""
        entry = self._entries.get(identity)
        if entry is not None and priority < entry.priority and entry.issued is None:
            entry.priority = priority
            self._wake.set()

    def ask_again(self) -> None:
        """The CA may be back: end the back-off of those that have no certificate because it was away.

        Renewals keep theirs: nothing waits for them, and a CA that comes back has enough to do.
        """
        now = self._clock()
        for entry in self._entries.values():
            if entry.issued is None and entry.error and entry.is_transient:
                entry.due, entry.failures = min(entry.due, now), 0
        self._wake.set()

    def get(self, identity: Identity) -> Issued | None:
        """The certificate in hand, if it is still valid."""
        entry = self._entries.get(identity)
        issued = entry.issued if entry is not None else None
        return issued if issued is not None and self._clock() < issued.not_after else None

    def authorities(self) -> frozenset[x509.Certificate]:
        """What certificates in hand rest on: intermediates and anchors."""
        issued = [entry.issued for entry in self._entries.values() if entry.issued is not None]
        return frozenset(each for one in issued for each in (*one.chain[1:], *one.roots))

    def error(self, identity: Identity) -> str:
        """Why the last attempt to get its certificate failed; empty while none has."""
        entry = self._entries.get(identity)
        return entry.error if entry is not None else ""

    async def obtain(self, identity: Identity) -> Issued:
        """The certificate, waiting for the first fetch. Raises SigningError: at once while it is failing."""
        entry = self._entries.get(identity)
        if entry is None:
            raise SigningError(f"{identity} is not in use on this node")
        self.hurry(identity)
        await entry.settled.wait()
        if self._entries.get(identity) is not entry:
            raise SigningError(f"{identity} was forgotten: its last pod left this node")
        issued = self.get(identity)
        if issued is None:
            text = entry.error or f"the certificate of {identity} has just expired"
            raise SigningError(text, is_transient=entry.is_transient or not entry.error)
        return issued

    async def obtain_in_time(self, identity: Identity) -> Issued:
        """As `obtain`, for a pod that is being started: what passes by itself is waited for, and asked for soon again.

        The CA may hear of a new pod later than this node. Raises SigningError for what somebody must change.
        """
        tries = 0
        while True:
            entry = self._entries.get(identity)
            try:
                return await self.obtain(identity)
            except SigningError as error:
                if entry is None or self._entries.get(identity) is not entry or not error.is_transient:
                    raise
            tries += 1
            entry.due = min(entry.due, self._clock() + SOON.delay_s(tries, self._rng))
            self._wake.set()
            await entry.tried.wait()

    def held(self) -> tuple[Held, ...]:
        """All identities in use, in order."""
        return tuple(
            Held(
                entry.identity,
                entry.state,
                entry.priority,
                entry.due,
                entry.failures,
                entry.error,
                entry.issued.not_before if entry.issued else None,
                entry.issued.not_after if entry.issued else None,
                entry.issued.ended_by if entry.issued else "",
            )
            for _, entry in sorted(self._entries.items())
        )

    async def run(self) -> None:
        """Fetch and renew, until cancelled."""
        async with asyncio.TaskGroup() as fetches:
            while True:
                self._wake.clear()
                now = self._clock()
                self._keep_to_clock(now)
                self._let_go_expired(now)
                for entry in self._next_fetches(now):
                    self._fetching.add(entry.identity)
                    fetches.create_task(self._fetch(entry.identity), name=f"fetch {entry.identity}")
                await self._wait(self._wake, self._idle_s(now))

    def _next_fetches(self, now: float) -> list[_Entry]:
        # A scan, not a heap: a node has a few hundred identities, and priorities change while they wait.
        due = [e for e in self._entries.values() if e.due <= now and e.identity not in self._fetching]
        due.sort(key=lambda e: (e.priority, e.due))
        return due[: self._concurrency - len(self._fetching)]

    def _idle_s(self, now: float) -> float:
        """Until the next fetch or expiry. The end of a fetch wakes by itself."""
        times = [e.issued.not_after for e in self._entries.values() if e.issued]
        if len(self._fetching) < self._concurrency:
            times += [e.due for e in self._entries.values() if e.identity not in self._fetching]
        return max(0.0, min(min(times, default=math.inf) - now, MAX_WAIT_S))

    async def _fetch(self, identity: Identity) -> None:
        try:
            request = make_request(identity)
            answer = await self._signer.sign(identity, request.csr_pem)
            self._succeeded(read_answer(answer, identity, request.key, self._clock()))
        except SigningError as error:
            self._failed(identity, error)
        except Exception as error:  # noqa: BLE001 - told; every agent gets the like of it, and again after a restart
            reason = defects.note(f"what the CA answers for {identity} cannot be taken", error)
            self._failed(identity, SigningError(reason))
        finally:
            self._fetching.discard(identity)
            self._wake.set()

    def _succeeded(self, issued: Issued) -> None:
        entry = self._entries.get(issued.identity)
        if entry is None:
            return  # forgotten while the CA was asked
        entry.issued, entry.error, entry.failures = issued, "", 0
        entry.priority = Priority.BACKGROUND
        entry.issued_at = self._clock()
        entry.due = renewal_time(issued.not_before, issued.not_after, self._clock())
        log.info("certificate for %s, valid for %.0f s", issued.identity, issued.not_after - self._clock())
        if issued.not_anchors:
            log.warning(
                "not trusted though the CA sent them as roots, for they are no CA certificates: %s",
                ", ".join(issued.not_anchors),
            )
        entry.settled.set()
        entry.tried.set()
        self._on_credentials(issued.identity, issued)

    def _failed(self, identity: Identity, error: SigningError) -> None:
        entry = self._entries.get(identity)
        if entry is None:
            return
        now = self._clock()
        entry.error, entry.is_transient = str(error), error.is_transient
        entry.failures += 1
        not_after = entry.issued.not_after if entry.issued is not None else None
        entry.due = retry_time(now, entry.failures, not_after, self._rng)
        log.warning("no certificate for %s: %s; next attempt in %.1f s", identity, error, entry.due - now)
        entry.settled.set()
        entry.tried.set()
        entry.tried = asyncio.Event()

    def _keep_to_clock(self, now: float) -> None:
        """The wall clock may have been set back: what was due by the time of before would be due in years."""
        was_set_back, self._looked_at = now < self._looked_at - SET_BACK_S, now
        for entry in self._entries.values():
            if was_set_back and (entry.error or entry.issued is None):
                # By a clock that was ahead nothing that the CA sends is valid.
                entry.due, entry.failures = min(entry.due, now), 0
            elif entry.failures or entry.issued is None:
                entry.due = min(entry.due, latest_retry(now))
            elif now < entry.issued_at - SET_BACK_S:
                log.warning(
                    "the clock was set back since %s got its certificate: renewing it", entry.identity
                )
                entry.due, entry.issued_at = min(entry.due, now), now

    def _let_go_expired(self, now: float) -> None:
        for entry in self._entries.values():
            if entry.issued is not None and entry.issued.not_after <= now:
                what = "its certificate"
                if entry.issued.ended_by:
                    what = f"the authority {entry.issued.ended_by} above its certificate"
                entry.issued = None
                entry.priority = Priority.REALTIME
                entry.error = f"{what} has expired; last renewal: {entry.error or 'not tried yet'}"
                log.error("%s: %s", entry.identity, entry.error)
                self._on_forget(entry.identity)

    def _forget(self, entry: _Entry) -> None:
        entry.settled.set()
        entry.tried.set()
        if entry.issued is not None:
            log.info("%s is not in use any more: its certificate is forgotten", entry.identity)
            self._on_forget(entry.identity)
