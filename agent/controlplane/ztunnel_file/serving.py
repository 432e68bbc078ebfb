"""Serves what ztunnel's file says, in the place of manifests: read once, as ztunnel does, and the same until the end.

Agents report what they capture as ever, and it changes nothing: how a workload is reached is what the file says.
"""

from __future__ import annotations

import logging
from pathlib import Path

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.serve.enrolment_service import EnrolledPods
from agent.controlplane.serve.publisher import Publisher, State
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.state_dir import StateError
from agent.controlplane.ztunnel_file.reading import BadFile, Read, read
from agent.model.counted import counted

log = logging.getLogger(__name__)


class Unchanging:
    """Publication and following of one file."""

    is_at_work = False

    def __init__(
        self, path: Path, trust_domain: str, pods: EnrolledPods, publisher: Publisher, board: StatusBoard
    ) -> None:
        self._path, self._trust_domain = path, trust_domain
        self._pods, self._publisher, self._board = pods, publisher, board
        self._read: Read | None = None

    def begin(self) -> None:
        """Raises StateError: the file cannot be served, and nothing else is."""
        try:
            self._read = read(self._path, self._trust_domain)
        except BadFile as error:
            raise StateError(f"--ztunnel-config: {error}") from error
        except OSError as error:
            raise StateError(f"--ztunnel-config: {self._path}: {error.strerror}") from error
        self.refresh()

    def inventory(self) -> Inventory:
        return Inventory() if self._read is None else self._read.inventory

    def refresh(self) -> None:
        """Publish, and note which pods are enrolled now."""
        if self._read is None:
            return
        snapshot = self._read.snapshot
        if self._publisher.publish(State(self._read.inventory, snapshot, self._trust_domain)):
            log.info(
                "serving %s, %s",
                counted(len(snapshot.addresses), "address", "addresses"),
                counted(len(snapshot.policies), "policy", "policies"),
            )
        self._board.published(snapshot, {}, self._pods.by_node)

    async def run(self) -> None:
        """Nothing changes any more."""

    async def end(self) -> None:
        self._board.save()
