"""What is to be said about manifests, and whom it concerns: values between reading, translating and status.

A remark is more than a line for the log: refusals, and what has no effect, are shown by the agents of the pods in their
scope, because a policy that does nothing looks like one that works from everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from agent.controlplane.read.fields import Place


class Weight(Enum):
    """`REFUSED`: not taken in as written. `INEFFECTIVE`: taken in, but something of it does nothing."""

    REFUSED = "refused"
    INEFFECTIVE = "no effect"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Scope:
    """Pods: of a namespace (None: of all) with these labels, or those of one node; `node` counts without pods too."""

    namespace: str | None = None
    selector: Mapping[str, str] | None = None
    node: str = ""


EVERYBODY = Scope()


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing to be said. `about` names the object, `scope` the pods that it concerns (None: nobody's agent).

    `effect`: what holds instead of what was refused, `outcome` the same in a word; of something that was taken in, what
    it does instead of nothing.
    """

    place: Place
    about: str
    problem: str
    field: str = ""
    effect: str = ""
    outcome: str = ""
    remedy: str = ""
    weight: Weight = Weight.NOTE
    scope: Scope | None = None

    @property
    def is_refusal(self) -> bool:
        return self.weight is Weight.REFUSED

    @property
    def word(self) -> str:
        """What stands before it where it is shown."""
        return self.outcome if self.outcome and not self.is_refusal else self.weight.value

    @property
    def what(self) -> str:
        """File, line, object, field and what is wrong."""
        return ": ".join(filter(None, (str(self.place), self.about, self.field, self.problem)))

    @property
    def without_remedy(self) -> str:
        return "; ".join(filter(None, (self.what, self.effect)))

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.without_remedy, self.remedy)))
