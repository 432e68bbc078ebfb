"""What goes with an owner's listeners: where its held SYNs come, where it is noted who has proven itself, and the key.

Held SYNs are taken by one worker at a time, or two would answer for the same connections. Where the worker that has had
a ring may still take from it, the next one gets an empty ring, and programs write into that from then on. By the key
the kernel chooses between owners.
"""

from __future__ import annotations

import logging
import os

from agent.channel import MEMBERS, RING, ChoiceKey
from agent.supervisor.queues import Rings
from agent.supervisor.worker_link import WorkerLink

log = logging.getLogger(__name__)


class RingReaders:
    """Gives out the rings. `rings`: None where no SYNs are held; `members`: the descriptor of the table, or None."""

    def __init__(self) -> None:
        self.rings: Rings | None = None
        self.members: int | None = None
        """This object's."""
        self.choice_key = 0
        """0: no worker has to know it."""
        self._readers: dict[int, WorkerLink] = {}

    @property
    def is_one_alone(self) -> bool:
        """Only one worker at a time may serve an owner's listeners: the one that answers for a connection, and knows of
        what it dials to itself."""
        return self.rings is not None or bool(self.choice_key)

    def found(self, link: WorkerLink, *, is_ours: bool) -> None:
        """A worker was found that has rings of the owners it serves; one that retires may still read what is left."""
        for owner in link.owners:
            if is_ours or owner not in self._readers:
                self._readers[owner] = link

    def tell(self, link: WorkerLink) -> None:
        """What a worker on duty has to know before it serves listeners."""
        if self.choice_key:
            link.send(ChoiceKey(self.choice_key))

    def beside(self, link: WorkerLink, owner: int) -> dict[str, int]:
        """The descriptors to send with the owner's listeners, by their names."""
        return ({} if self.members is None else {MEMBERS: self.members}) | self._ring_for(link, owner)

    def _ring_for(self, link: WorkerLink, owner: int) -> dict[str, int]:
        if self.rings is None:
            return {}
        reader = self._readers.get(owner)
        if reader is not None and reader is not link and not reader.is_lost:
            try:
                self.rings.renew(owner)
            except OSError as error:
                log.error("no ring for the SYNs of worker %d (%s): they are not held", owner, error)
                return {}
        self._readers[owner] = link
        return {RING: self.rings.fd(owner)}

    def close(self) -> None:
        if self.rings is not None:
            self.rings.close()
        if self.members is not None:
            os.close(self.members)
            self.members = None
