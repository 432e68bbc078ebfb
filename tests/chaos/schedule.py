"""Which faults, where, for how long: a sequence that its seed gives again. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

TOGETHER = 0.25
"""The share of steps in which a second fault comes while the first is there, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Span:
    """How long a fault may stay, in seconds."""

    least_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """A fault at a node. `draw`: what the fault itself takes its chances from; `also`: one that comes meanwhile."""

    fault: str
    node: str
    hold_s: float
    draw: int
    also: Step | None = None

    def __str__(self) -> str:
        text = f"{self.fault}@{self.node} for {self.hold_s:.1f} s"
        return text if self.also is None else f"{text}, and meanwhile {self.also}"


def steps(
    seed: int,
    spans: Mapping[str, Span],
    nodes: Sequence[str],
    alone: frozenset[str] = frozenset(),
    together: float = TOGETHER,
) -> Iterator[Step]:
    """Without end: every fault once in a shuffled order, then again in another. `alone`: in no step with another."""
    chances = random.Random(seed)
    names = sorted(spans)
    while True:
        chances.shuffle(names)
        for name in names:
            first = _step(chances, name, spans[name], nodes)
            # Drawn in any case, so that which faults may come together changes nothing of those that follow.
            other, is_together = chances.choice(sorted(spans)), chances.random() < together
            second = _step(chances, other, spans[other], nodes)
            if is_together and other != name and not {name, other} & alone:
                yield Step(first.fault, first.node, first.hold_s, first.draw, second)
            else:
                yield first


def _step(chances: random.Random, name: str, span: Span, nodes: Sequence[str]) -> Step:
    return Step(
        name, chances.choice(nodes), chances.uniform(span.least_s, span.most_s), chances.getrandbits(32)
    )
