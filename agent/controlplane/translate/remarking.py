"""A remark about an object that was read: what of it does nothing, and whom that concerns. Pure."""

from __future__ import annotations

from agent.controlplane.read.objects import Object
from agent.controlplane.read.remarks import Remark, Scope, Weight


def remark(
    made: Object,
    problem: str,
    remedy: str = "",
    scope: Scope | None = None,
    *,
    field: str = "",
    outcome: str = "",
    is_note: bool = False,
) -> Remark:
    """`scope`: the pods that it concerns; a note concerns no agent."""
    return Remark(
        place=made.meta.place,
        about=str(made.meta),
        field=field,
        problem=problem,
        outcome=outcome,
        remedy=remedy,
        weight=Weight.NOTE if is_note else Weight.INEFFECTIVE,
        scope=None if is_note else scope,
    )
