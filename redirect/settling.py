"""Makes links of what was attached as filters in haste, a few at a time, while there is nothing else to do.

Each takes a grace period, in which nobody on this machine can change a network device: so no more of them at once
than a pod's start may wait for, however long it takes for all. One that cannot be a link stays a filter, which captures
as well.
"""

from __future__ import annotations

import logging
import time

from redirect.attach import Attachments
from redirect.errors import RedirectError
from redirect.observe import Observed
from redirect.pins import Pins

log = logging.getLogger(__name__)


class Settling:
    """Of one instance; `attachments` are settled while its lock is held."""

    def __init__(self, pins: Pins, attachments: Attachments) -> None:
        self._pins = pins
        self._attachments = attachments
        self._left: frozenset[tuple[int, str]] = frozenset()
        self._refused: set[tuple[int, str]] = set()

    def note(self, observed: Observed) -> None:
        """What is to be settled; who is behind others goes before them first, which settles it too."""
        self._refused &= observed.provisional
        found = observed.provisional - observed.behind.keys() - self._refused
        if found and not self._left:
            log.info(
                "%d programs were attached as filters in haste: they become links one after another",
                len(found),
            )
        self._left = found

    @property
    def left(self) -> int:
        """How many were filters at the last look, and can be links."""
        return len(self._left)

    def turn(self, at_most_s: float) -> None:
        """Settles some, for so long and the time of one more. Raises OSError for the lock."""
        if not self._left:
            return
        until_s = time.monotonic() + at_most_s
        with self._pins.locked():
            for ifindex, program in sorted(self._left):
                self._left -= {(ifindex, program)}
                try:
                    self._attachments.settle(ifindex, program)
                except (RedirectError, OSError) as error:
                    self._refused.add((ifindex, program))
                    log.warning("%s of interface %d stays a filter: %s", program, ifindex, error)
                if time.monotonic() > until_s:
                    break
        if not self._left:
            log.info("what was attached as filters in haste is links now")
