"""From what was read and reported to what is published: the one place where the control plane's state comes about.

A new reading of the manifests or a new enrolment report makes everything anew (it is pure and fast), and an equal
result is published as silence. Allocated addresses are on disk before anybody hears of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.controlplane.read.directory import Reading
from agent.controlplane.read.inventory import Inventory, collect
from agent.controlplane.read.remarks import Remark
from agent.controlplane.serve.concerns import Concerns
from agent.controlplane.serve.enrolment_service import EnrolledPods
from agent.controlplane.serve.publisher import Publisher, State
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.state_dir import StateDirectory
from agent.controlplane.translate import vips
from agent.controlplane.translate.compose import PodKey, translate
from agent.controlplane.translate.effects import remarks
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from agent.controlplane.translate.refusals import refusals, without_address
from agent.controlplane.translate.resources import Snapshot
from agent.model.address import CIDR

VIPS_FILE = "vips.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A reading and all that follows from it. `enrolled`: the pods that `snapshot` counts as captured."""

    reading: Reading
    everything: Inventory
    refused: tuple[Remark, ...]
    said: tuple[Remark, ...]
    vips: vips.Remembered
    inventory: Inventory
    enrolled: Mapping[str, tuple[PodKey, ...]]
    snapshot: Snapshot


class Publication:
    """Holds the inventory that is served and remakes the published state when an input changes."""

    def __init__(
        self,
        settings: MeshSettings,
        ranges: tuple[CIDR, ...],
        pods: EnrolledPods,
        publisher: Publisher,
        concerns: Concerns,
        board: StatusBoard,
        state: StateDirectory,
    ) -> None:
        self._settings, self._ranges, self._pods = settings, ranges, pods
        self._publisher, self._concerns = publisher, concerns
        self._board, self._state = board, state
        self._vips: vips.Remembered = state.read_json(VIPS_FILE, _decode, {})
        self._inventory = Inventory()
        self._said: set[str] = set()

    def inventory(self) -> Inventory:
        return self._inventory

    def make(self, reading: Reading) -> Made:
        """What a reading of the manifests comes to. Changes nothing, and may run beside everything else in a thread."""
        everything = collect(reading.standing.served())
        mesh = mesh_of(everything, self._settings)
        found = discovered(everything, mesh)
        allocation = vips.allocate(
            found.services,
            self._ranges,
            self._vips,
            [ip for pod in found.pods for ip in pod.ips],
        )
        refused = (
            *refusals(reading.standing, mesh, is_serving=reading.is_complete),
            *map(without_address, allocation.errors),
        )
        # The mesh config stays in it, so that `translate` finds the same mesh.
        inventory = dataclasses.replace(found, services=allocation.services)
        enrolled = self._pods.by_node
        return Made(
            reading,
            everything,
            refused,
            (*refused, *reading.standing.remarks, *remarks(everything, mesh)),
            allocation.remembered,
            inventory,
            enrolled,
            translate(inventory, enrolled, self._settings),
        )

    def take(self, made: Made) -> None:
        """Serve it. What is to be said about it is reported, each thing once in the log. Raises StateError."""
        reading = made.reading
        self._log(made.said, reading.passed_over)
        self._board.read(reading.is_complete, made.said, reading.passed_over)
        self._concerns.replace(made.said, made.everything.pods)
        if not reading.is_complete:
            waiting = (remark for remark in made.refused if remark.outcome == "waiting")
            self._publisher.wait("; ".join(remark.what for remark in waiting))
            return
        if made.vips != self._vips:
            self._state.write_json(VIPS_FILE, made.vips)
            self._vips = made.vips
        self._inventory = made.inventory
        if made.enrolled == self._pods.by_node:
            self._publish(made.snapshot)
        else:
            self.refresh()  # another report came meanwhile

    def refresh(self) -> None:
        """Publish again, for other enrolled pods."""
        self._publish(translate(self._inventory, self._pods.by_node, self._settings))

    def _publish(self, snapshot: Snapshot) -> None:
        domain = mesh_of(self._inventory, self._settings).trust_domain
        if self._publisher.publish(State(self._inventory, snapshot, domain)):
            log.info("serving %d addresses, %d policies", len(snapshot.addresses), len(snapshot.policies))
        self._board.published(snapshot, self._vips, self._pods.by_node)

    def _log(self, said: Iterable[Remark], passed_over: Iterable[str]) -> None:
        lines = {str(remark): remark.is_refusal for remark in said} | dict.fromkeys(passed_over, False)
        for line, is_refusal in lines.items():
            if line not in self._said:
                log.log(logging.ERROR if is_refusal else logging.WARNING, "%s", line)
        self._said = set(lines)


def _decode(value: object) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("want Services with lists of addresses")
    return {str(name): tuple(map(str, addresses)) for name, addresses in value.items()}
