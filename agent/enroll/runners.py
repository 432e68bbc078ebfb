"""Pods that ran outside of the mesh until a source wanted them: open as they were until they can be served.

One that is closed first loses what is sent meanwhile, and a SYN that is dropped costs its sender a second. So the wish
for such a pod waits while its certificate is fetched, for a while at most; then one turn takes it in as it is
(`learning` of `Captures.turn`), or closes it. Not so a pod that begins: that one is closed at first sight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from agent.enroll.captures import Captures
from agent.enroll.judgement import likely
from agent.enroll.source import Claim, Stance, Step, Take
from agent.enroll.wish import PodKey, Wish
from agent.model.identity import Identity
from agent.state.store import Store

OPEN_PATIENCE_S = 2.0
"""How long a pod stays as it was while its certificate is fetched; then it is closed, and waits."""
AT_ONCE = 16
"""Pods that one turn takes in so: the others stay as they are until the next, and starts that wait go before them."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A certificate for the pod of that uid; `expecting`: what has it fetched and keeps it until the wish does."""

    uid: str
    identity: Identity
    ends_s: float
    expecting: ExitStack


class Runners:
    """Those of one source. `learning`: of the steps that were due last, the pods that stay open until they are served.

    `are_more`: some are left to the next turn, which need wait for nothing.
    """

    def __init__(self, captures: Captures, store: Store, monotonic: Callable[[], float]) -> None:
        self._captures = captures
        self._store = store
        self._monotonic = monotonic
        self._open: Mapping[PodKey, str] = {}
        """Pods that run and are in clear, with their uids: the source did not want them."""
        self._awaited: dict[PodKey, _Awaited] = {}
        self.learning: frozenset[PodKey] = frozenset()
        self.are_more = False

    def note(self, claims: Mapping[PodKey, Claim]) -> None:
        """Who runs in clear, by what the source says now; to be called with all that it says."""
        self._open = {
            key: claim.uid
            for key, claim in claims.items()
            if claim.is_running and (claim.stance is Stance.UNWANTED or self._open.get(key) == claim.uid)
        }

    def due(self, steps: Collection[Step]) -> list[Step]:
        """Those of all the source's steps that are to be done now; the others it says again."""
        asked = {step.pod: step.wish.uid for step in steps if isinstance(step, Take)}
        for key in [key for key, awaited in self._awaited.items() if asked.get(key) != awaited.uid]:
            self._forget(key)
        due: list[Step] = []
        learning: set[PodKey] = set()
        self.are_more = False
        for step in steps:
            if isinstance(step, Take) and self._is_open(step.wish):
                if len(learning) >= AT_ONCE:
                    self.are_more = True
                    continue
                if not self._is_ready(step.wish):
                    continue
                if self._is_certified(step.pod):
                    learning.add(step.pod)
            due.append(step)
        self.learning = frozenset(learning)
        return due

    @property
    def are_waiting(self) -> bool:
        """Whether some are due when their certificates are there, of which there is news, or their time is over."""
        return bool(self._awaited)

    def turned(self) -> None:
        """What was due has wishes, which keep its certificates by now."""
        for key in [key for key in self._awaited if self._captures.has(key)]:
            self._forget(key)

    def _is_open(self, wish: Wish) -> bool:
        return self._open.get(wish.pod) == wish.uid and not self._captures.has(wish.pod)

    def _is_ready(self, wish: Wish) -> bool:
        """Whether there is nothing to wait for, or no more time."""
        awaited = self._awaited.get(wish.pod)
        if awaited is None:
            known = likely(self._store.current, {wish.pod: wish}, ()) if self._captures.knows_mesh else ()
            for identity in known:
                awaited = self._await(wish, identity)
        return awaited is None or self._monotonic() >= awaited.ends_s or self._is_certified(wish.pod)

    def _is_certified(self, key: PodKey) -> bool:
        awaited = self._awaited.get(key)
        return awaited is not None and not self._captures.identities.uncertified(awaited.identity)

    def _await(self, wish: Wish, identity: Identity) -> _Awaited:
        expecting = ExitStack()
        expecting.enter_context(self._captures.identities.expecting(identity))
        awaited = _Awaited(wish.uid, identity, self._monotonic() + OPEN_PATIENCE_S, expecting)
        self._awaited[wish.pod] = awaited
        return awaited

    def _forget(self, key: PodKey) -> None:
        self._awaited.pop(key).expecting.close()
