"""Who says which pods of this node are to be captured, besides those that people enrol: what each of them has to tell.

A source says what is so now, as often as it is asked, and never "change this": what was missed while a process was
down, or a server away, needs no second way. `follow` compares that with the wishes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from agent.enroll.treatment import NOTHING_ASKED, Asked
from agent.enroll.wish import PodKey, WantedBy, Where, Wish


class Stance(Enum):
    """What a source says of a pod that it knows."""

    WANTED = "wanted"
    UNWANTED = "unwanted"
    """It is there, and it is not to be captured: let it go."""
    UNDECIDED = "undecided"
    """Nothing yet: what was so before holds."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Of one pod. `uid` tells it from another of the same name; `where` is there when it is wanted.

    `service_account` and `asked` as a Wish has them. `is_running`: it has an address, so it may have connections.
    """

    uid: str
    stance: Stance
    reason: str
    where: Where | None = None
    service_account: str = ""
    asked: Asked = NOTHING_ASKED
    is_running: bool = False


class NotReady(Exception):
    """What was waited for did not come; the text says what is missing."""


class PodSource(Protocol):
    """One party that says who is to be captured."""

    @property
    def wanted_by(self) -> WantedBy: ...

    @property
    def problem(self) -> str:
        """What keeps it from knowing, with the remedy; empty while all is well."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Have it called, on the event loop, when `claims` may say something else."""

    def turned(self) -> None:
        """What is captured may be other than before."""

    @property
    def way_out(self) -> str:
        """How a person has a pod let go that this source wants."""

    def claims(self) -> Mapping[PodKey, Claim] | None:
        """The pods of this node that are there; None: it does not know yet, and what it said before holds."""

    @property
    def knows_all(self) -> bool:
        """Whether `claims` has every one of them: a pod that it lacks is gone."""


@dataclass(frozen=True, slots=True)
class Take:
    """Capture a pod, in the place of what was wished for under its name."""

    wish: Wish
    reason: str

    @property
    def pod(self) -> PodKey:
        return self.wish.pod

    def __str__(self) -> str:
        return f"pod {self.pod} is wanted by {self.wish.wanted_by}: {self.reason}"


@dataclass(frozen=True, slots=True)
class LetGo:
    """Capture it no longer: it is in clear from then on."""

    pod: PodKey
    reason: str

    def __str__(self) -> str:
        return f"pod {self.pod} is let go: {self.reason}"


@dataclass(frozen=True, slots=True)
class Forget:
    """The pod is gone. What is captured for it stays closed until its interface goes too."""

    pod: PodKey
    reason: str

    def __str__(self) -> str:
        return f"the wish for pod {self.pod} ends: {self.reason}"


Step = Take | LetGo | Forget


def follow(
    source: WantedBy,
    claims: Mapping[PodKey, Claim],
    wishes: Mapping[PodKey, Wish],
    left: Mapping[PodKey, str],
    now_s: float,
    *,
    are_all: bool = True,
) -> Iterator[Step]:
    """What is to change so that the wishes are what a source says.

    `left`: pods for which something is captured without a wish, with their uids. A pod that a person enrolled is that
    person's: it is captured already, and only a person lets it go. Unless the claims `are_all` that there are, a pod
    without one stays as it is.
    """
    for key, claim in claims.items():
        wish = wishes.get(key)
        if wish is not None and wish.wanted_by is not source:
            continue
        mine = wish.uid if wish is not None else left.get(key)
        if claim.stance is Stance.WANTED and claim.where is not None:
            if wish is None or wish.uid != claim.uid:
                asked = Wish(
                    key,
                    claim.where,
                    source,
                    now_s,
                    uid=claim.uid,
                    service_account=claim.service_account,
                    asked=claim.asked,
                )
                yield Take(asked, claim.reason)
            elif wish.where != claim.where:
                # Where it was found last is kept with the wish: what is said now need not lead there at once.
                yield Take(replace(wish, where=claim.where, asked=claim.asked), "it is to be found otherwise")
            elif wish.asked != claim.asked:
                changed = replace(wish, asked=claim.asked)
                yield Take(changed, "its annotations ask for another treatment of its connections")
        elif claim.stance is Stance.UNWANTED and mine == claim.uid:
            yield LetGo(key, claim.reason)
        elif wish is not None and wish.uid != claim.uid:
            yield Forget(key, "another pod of that name has taken its place")
    if not are_all:
        return
    for key, wish in wishes.items():
        if wish.wanted_by is source and key not in claims:
            yield Forget(key, "the pod is gone or has ended")
    for key in left.keys() - wishes.keys() - claims.keys():
        yield Forget(key, "the pod is gone or has ended")
