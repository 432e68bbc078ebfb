"""Programs of others that put themselves before ours: how often ours go ahead again, and what is closed then. Pure.

Whoever is first has every packet, and may send it past ours; no one can see from outside whether a program does. So
ours go ahead again. One that comes back each time is not fought for ever: after MOVES within PERIOD_S the pod is
closed instead, until nobody is before it. It is closed by what still sees its packets: whoever takes those of one
direction away finds no answer in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from redirect.desired import Desired
from redirect.observe import Observed

MOVES = 3
PERIOD_S = 60.0

Place = tuple[int, str]
"""(ifindex, program)"""


class Rivals:
    """What is remembered of them, for as long as this process lives. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._moves: dict[Place, list[float]] = {}
        self._given_up: frozenset[Place] = frozenset()

    def note(self, observed: Observed, now_s: float) -> None:
        """Before steps are taken: each place that is behind is moved now, or given up."""
        seen = {at for at in self._given_up if observed.is_whole or at[0] in observed.links}
        self._given_up -= seen - observed.behind.keys()
        recent = {
            place: [at for at in moves if now_s - at < PERIOD_S] for place, moves in self._moves.items()
        }
        self._moves = {place: moves for place, moves in recent.items() if moves}
        for place in observed.behind.keys() - self._given_up:
            if len(self._moves.get(place, ())) < MOVES:
                self._moves.setdefault(place, []).append(now_s)
            else:
                self._given_up |= {place}

    def given_up(self, observed: Observed) -> Mapping[Place, str]:
        """Places where ours stay behind, and who is before them."""
        return {place: who for place, who in observed.behind.items() if place in self._given_up}

    def to_move(self, observed: Observed) -> Observed:
        """As if only those were behind that are to be moved."""
        kept = {place: who for place, who in observed.behind.items() if place not in self._given_up}
        return replace(observed, behind=kept)

    def closed(self, desired: Desired, observed: Observed) -> Desired:
        """With the pods closed whose programs stay behind."""
        shut = {ifindex for ifindex, _ in self.given_up(observed)}
        if not shut:
            return desired
        pods = (replace(pod, addresses=()) if pod.ifindex in shut else pod for pod in desired.pods)
        return replace(desired, pods=tuple(pods))
