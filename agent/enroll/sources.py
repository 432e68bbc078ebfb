"""All who say which pods are wanted, besides people: the wishes follow what they say.

What they tell is compared with the wishes there are, at any time and without an end to it: most of it changes none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from agent.enroll.captures import Captures
from agent.enroll.enrolled_pod import EnrolmentRefused
from agent.enroll.runners import Runners
from agent.enroll.source import PodSource, Stance, Step, Take, follow
from agent.enroll.wish import PodKey


class Sources:
    """`captures` has the wishes; `runners` are made for each source."""

    def __init__(
        self,
        sources: Collection[PodSource],
        captures: Captures,
        wall: Callable[[], float],
        runners: Callable[[], Runners],
    ) -> None:
        self._runners = {source: runners() for source in sources}
        self._sources = tuple(sources)
        self._captures = captures
        self._wall = wall

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Have it called, on the event loop, when the wishes are no longer what they say.

        Most of what they tell is of pods that are not wanted, or of which nothing is known yet.
        """
        for source in self._sources:
            source.subscribe(partial(self._heard, source, changed))

    def follow(self) -> frozenset[PodKey]:
        """Make the wishes what they say, but for pods that run and are not ready yet; those that are new now.

        One that does not know changes nothing.
        """
        new: set[PodKey] = set()
        for source in self._sources:
            steps = self._runners[source].due(self._steps(source, None))
            new |= {step.pod for step in steps if isinstance(step, Take) and not self._captures.has(step.pod)}
            if steps:
                self._captures.follow(steps)
        return frozenset(new)

    def follow_one(self, key: PodKey) -> None:
        """The same of one pod, whose start waits: what ran under its name waits no longer."""
        for source in self._sources:
            steps = self._steps(source, key)
            if steps:
                self._captures.follow(steps)

    @property
    def learning(self) -> frozenset[PodKey]:
        """Pods that `follow` took in as they run: they stay open until they are served, or closed."""
        return frozenset[PodKey]().union(*(each.learning for each in self._runners.values()))

    @property
    def are_more(self) -> bool:
        """Whether `follow` left pods to the next turn that it could have taken in."""
        return any(each.are_more for each in self._runners.values())

    @property
    def are_waiting(self) -> bool:
        """Whether `follow` left some that wait for their certificates, a while at most."""
        return any(each.are_waiting for each in self._runners.values())

    def turned(self) -> None:
        """What is captured may be other than before."""
        for source in self._sources:
            self._runners[source].turned()
            source.turned()

    def refuse_if_wanted(self, key: PodKey) -> None:
        """Raises EnrolmentRefused where one wants the pod: it stays captured, from now on for that one."""
        for source in self._sources:
            claim = (source.claims() or {}).get(key)
            if claim is None or claim.stance is not Stance.WANTED:
                continue
            wish = self._captures.wishes.get(key)
            if wish is not None:
                kept = replace(
                    wish,
                    where=claim.where or wish.where,
                    wanted_by=source.wanted_by,
                    uid=claim.uid,
                    service_account=claim.service_account,
                )
                self._captures.follow([Take(kept, claim.reason)])
            raise EnrolmentRefused(
                f"pod {key} stays captured: {source.wanted_by} wants it ({claim.reason}). {source.way_out}"
            )

    def _heard(self, source: PodSource, changed: Callable[[], None]) -> None:
        if self._steps(source, None):
            changed()

    def _steps(self, source: PodSource, only: PodKey | None) -> list[Step]:
        claims, are_all = source.claims(), source.knows_all
        if claims is None:
            return []
        self._runners[source].note(claims)
        if only is not None:
            claims, are_all = {key: claims[key] for key in (only,) if key in claims}, False
        captures = self._captures
        return list(
            follow(source.wanted_by, claims, captures.wishes, captures.left, self._wall(), are_all=are_all)
        )
