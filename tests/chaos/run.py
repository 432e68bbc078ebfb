"""The loop of chaos: a fault comes and goes, the mesh heals, and what was seen meanwhile is judged."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.catalogue import FAULTS
from tests.chaos.losses import Allowed
from tests.chaos.schedule import Step
from tests.chaos.stage import LOOK_S, Stage
from tests.chaos.verdict import Seen, violations

READY_S = 12.0
"""How long a new connection may take where both of its nodes are READY all the while."""
ENDS_S = 50.0
"""What began while a fault was there has come to its end by then: longer than applications wait."""


@dataclass(slots=True)
class Told:
    """What became of one step. `healed_s`: from the fault's end; None: not in time."""

    step: Step
    began_s: float = 0.0
    healed_s: float | None = None
    visits: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "step": str(self.step),
            "began_s": round(self.began_s, 3),
            "healed_s": self.healed_s,
            "visits": self.visits,
            "lost": self.lost,
            "failed": self.failed,
            "violations": self.violations,
        }


def run(stage: Stage, steps: Iterable[Step], until_s: float, tell: Callable[[str], None]) -> list[Told]:
    """Steps until the time is up, or one does not heal: what came after that would prove nothing."""
    told, began_s = [], time.monotonic()
    for step in steps:
        if time.monotonic() > until_s:
            break
        tell(f"{len(told) + 1}: {step}")
        done = take(stage, step)
        done.began_s -= began_s
        told.append(done)
        healed = "NOT HEALED" if done.healed_s is None else f"healed after {done.healed_s:.1f} s"
        tell(f"  {healed}; {done.visits} new connections, allowed to fail {done.failed}, lost {done.lost}")
        for line in done.violations:
            tell(f"  VIOLATION: {line}")
        if done.healed_s is None:
            break
    return told


def take(stage: Stage, step: Step) -> Told:
    """One step from its fault to its verdict."""
    stage.applications.revive()
    told, seen = Told(step, time.monotonic()), Seen()
    faults = [(each.node, FAULTS[each.fault].allowed) for each in (step, step.also) if each is not None]
    heals_s = max(allowed.heals_s for _, allowed in faults) * stage.patience
    _hold(stage, step)
    over_s = time.monotonic()
    while time.monotonic() < over_s + heals_s:
        if stage.healed(over_s, seen):
            told.healed_s = round(time.monotonic() - over_s, 2)
            break
        for who in stage.started_again():
            told.violations.append(f"{who} ended by itself")
        time.sleep(LOOK_S)
    else:
        said = "; ".join(f"{node} says {words}" for node, words in stage.watch.said.items())
        told.violations.append(f"not healed within {heals_s:g} s of the fault's end: {said}")
    healed_s = time.monotonic()
    stage.collect(healed_s, seen, ENDS_S)
    judge(told, seen, faults, READY_S * stage.patience, healed_s)
    return told


def judge(told: Told, seen: Seen, faults: list[tuple[str, Allowed]], ready_s: float, healed_s: float) -> None:
    told.visits = sum(len(visits) for visits in seen.visits.values())
    for visits in seen.visits.values():
        for visit in visits:
            if visit.why:
                told.failed[visit.why] = told.failed.get(visit.why, 0) + 1
    for reasons in seen.lost.values():
        for why, many in reasons.items():
            told.lost[why] = told.lost.get(why, 0) + many
    told.violations += violations(seen, faults, ready_s, healed_s)


def _hold(stage: Stage, step: Step) -> None:
    """The second fault comes and goes within the first, which is no longer then than twice what it was: a worker that
    stands still for a while must not become one that hangs.
    """
    with ExitStack() as stack:
        stack.enter_context(FAULTS[step.fault].apply(stage, step.node, random.Random(step.draw)))
        time.sleep(step.hold_s / 2)
        if step.also is not None:
            _hold(stage, replace(step.also, hold_s=min(step.also.hold_s, step.hold_s)))
        time.sleep(step.hold_s / 2)
