"""What is to be said about the manifests: to the log, to `status` and to the agents that it concerns.

It is made beside what is served and after it: nobody's policy waits for a remark.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from agent.controlplane.read.directory import Reading
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.objects import Object, Pod
from agent.controlplane.read.remarks import Remark
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.serve.concerns import Concerns
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.translate.conditions import Conditions, conditions
from agent.controlplane.translate.effects import remarks
from agent.controlplane.translate.mesh import MeshSettings, mesh_of
from agent.controlplane.translate.refusals import refusals, without_address

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """All that is to be said of a reading, and of its objects, and the pods that it may concern."""

    reading: Reading
    said: tuple[Remark, ...]
    conditions: tuple[Conditions, ...]
    pods: Collection[Pod]
    objects: Collection[Object]
    """Those that count, without what stands in for refused ones."""


def report(reading: Reading, unaddressed: Collection[ManifestError], settings: MeshSettings) -> Report:
    """`unaddressed`: Services that could get no address. Pure; may take long."""
    everything = collect(reading.standing.served())
    mesh = mesh_of(everything, settings)
    said = (
        *refusals(reading.standing, mesh, is_serving=reading.is_complete),
        *map(without_address, unaddressed),
        *reading.standing.remarks,
        *remarks(everything, mesh),
    )
    found = tuple(conditions(everything, reading.standing.refused, mesh))
    standing = reading.standing
    objects = [
        made for each in standing.objects.values() for made in each if made.meta.key not in standing.outlived
    ]
    return Report(reading, said, found, everything.pods, objects)


class Announcer:
    """Says each report where people look, and each thing once in the log."""

    def __init__(self, board: StatusBoard, concerns: Concerns) -> None:
        self._board, self._concerns = board, concerns
        self._said: set[str] = set()

    def say(self, made: Report) -> None:
        reading = made.reading
        lines = {str(remark): remark.is_refusal for remark in made.said}
        lines |= dict.fromkeys(reading.passed_over, False)
        for line, is_refusal in lines.items():
            if line not in self._said:
                log.log(logging.ERROR if is_refusal else logging.WARNING, "%s", line)
        self._said = set(lines)
        self._board.read(reading.is_complete, made.said, reading.passed_over, made.conditions, made.objects)
        self._concerns.replace(made.said, made.pods)
