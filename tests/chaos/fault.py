"""What a fault is: a name, a sentence, how long it may stay, what it may cost, and how it is done and undone."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.chaos.losses import Allowed
from tests.chaos.schedule import Span
from tests.chaos.stage import Stage

Apply = Callable[[Stage, str, random.Random], AbstractContextManager[None]]
"""A context: entering it does the fault, leaving it takes the fault away, or does what a unit with Restart= would."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`is_alone`: it comes with no other fault."""

    says: str
    span: Span
    allowed: Allowed
    apply: Apply
    is_alone: bool = False
