"""Refused documents and unreadable files as remarks: what holds in their place, and which pods they concern. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.controlplane.read.admission import Standing
from agent.controlplane.read.fields import Place
from agent.controlplane.read.objects import Guard
from agent.controlplane.read.refused import Outcome, Refused
from agent.controlplane.read.remarks import EVERYBODY, Remark, Scope, Weight
from agent.controlplane.read.scan import WHOLE
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.translate.effects import scope_of
from agent.controlplane.translate.mesh import Mesh

WAITING = "nothing is served before it can be read"


def refusals(standing: Standing, mesh: Mesh, *, is_serving: bool = False) -> Iterator[Remark]:
    """Everything that is refused, in the order of files, one remark for each error.

    `is_serving`: the mesh is up, so that what was never read is only missing.
    """
    for error in standing.unread.values():
        if error.file in standing.objects or (is_serving and error.file == WHOLE):
            yield _remark(error, "", "everything of it stays as it was", "kept", EVERYBODY)
        elif is_serving:
            yield _remark(error, "", "it is not in force", "left_out", EVERYBODY)
        else:
            yield _remark(error, "", WAITING, "waiting", EVERYBODY)
    for refusal in standing.refused:
        effect, outcome = refusal.effect, refusal.outcome.value
        if refusal.is_missing:
            effect, outcome = WAITING, "waiting"
        elif refusal.stand_in is None and refusal.outcome is Outcome.CLOSED:
            outcome = "left_out"
        for error in refusal.errors:
            yield _remark(error, refusal.about, effect, outcome, _scope(refusal, mesh))


def without_address(error: ManifestError) -> Remark:
    """A Service that wants an address and can get none."""
    return _remark(error, "", "it is not served", "left_out", EVERYBODY)


def _scope(refusal: Refused, mesh: Mesh) -> Scope:
    if isinstance(refusal.stand_in, Guard):
        return scope_of(refusal.stand_in, mesh)
    return Scope(node=refusal.node) if refusal.node else EVERYBODY


def _remark(error: ManifestError, about: str, effect: str, outcome: str, scope: Scope) -> Remark:
    return Remark(
        place=Place(error.file, error.line, error.document),
        about=about,
        field=error.field,
        problem=error.problem,
        effect=effect,
        outcome=outcome,
        weight=Weight.REFUSED,
        scope=scope,
    )
