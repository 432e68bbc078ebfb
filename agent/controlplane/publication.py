"""From what was read and reported to what is published: the one place where the control plane's state comes about.

A new reading of the manifests or a new enrolment report makes everything anew (it is pure and fast), and an equal
result is published as silence. Allocated addresses are on disk before anybody hears of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from agent.controlplane.read.directory import Reading
from agent.controlplane.read.inventory import Inventory, collect
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.serve.enrolment_service import EnrolledPods
from agent.controlplane.serve.publisher import Publisher, State
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.state_dir import StateDirectory
from agent.controlplane.translate import vips
from agent.controlplane.translate.compose import MeshSettings, translate, trust_domain, warnings
from agent.model.address import CIDR

VIPS_FILE = "vips.json"

log = logging.getLogger(__name__)


class Publication:
    """Holds the inventory that is served and remakes the published state when an input changes."""

    def __init__(
        self,
        settings: MeshSettings,
        ranges: tuple[CIDR, ...],
        pods: EnrolledPods,
        publisher: Publisher,
        board: StatusBoard,
        state: StateDirectory,
    ) -> None:
        self._settings, self._ranges, self._pods = settings, ranges, pods
        self._publisher, self._board, self._state = publisher, board, state
        self._vips: vips.Remembered = state.read_json(VIPS_FILE, _decode, {})
        self._inventory = Inventory()
        self._said: set[str] = set()

    def inventory(self) -> Inventory:
        return self._inventory

    def take(self, reading: Reading) -> None:
        """Serve a reading of the manifests. Its errors and warnings are reported, each once in the log."""
        read = collect(reading.files)
        allocation = vips.allocate(
            read.services,
            self._ranges,
            self._vips,
            [ip for pod in read.pods for ip in pod.ips],
        )
        inventory = dataclasses.replace(read, services=allocation.services)
        errors = (*reading.errors, *allocation.errors)
        notes = (*reading.warnings, *warnings(inventory))
        self._log(errors, notes)
        self._board.read(reading.is_complete, errors, notes)
        if not reading.is_complete:
            return
        if allocation.remembered != self._vips:
            self._state.write_json(VIPS_FILE, allocation.remembered)
            self._vips = allocation.remembered
        self._inventory = inventory
        self.refresh()

    def refresh(self) -> None:
        """Publish again, for other enrolled pods."""
        snapshot = translate(self._inventory, self._pods.by_node, self._settings)
        domain = trust_domain(self._inventory, self._settings)
        if self._publisher.publish(State(self._inventory, snapshot, domain)):
            log.info("serving %d addresses, %d policies", len(snapshot.addresses), len(snapshot.policies))
        self._board.published(snapshot, self._vips, self._pods.by_node)

    def _log(self, errors: tuple[ManifestError, ...], notes: tuple[str, ...]) -> None:
        for error in errors:
            if str(error) not in self._said:
                log.error("%s; its last good version stays served", error)
        for note in notes:
            if note not in self._said:
                log.warning("%s", note)
        self._said = {*map(str, errors), *notes}


def _decode(value: object) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("want Services with lists of addresses")
    return {str(name): tuple(map(str, addresses)) for name, addresses in value.items()}
