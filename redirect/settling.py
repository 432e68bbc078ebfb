"""Makes links of what was attached as filters in haste, a few at a time, while there is nothing else to do.

Each takes a grace period, in which nobody on this machine can change a network device: so no more of them at once
than a pod's start may wait for, however long it takes for all. One that cannot be a link stays a filter, which captures
as well, and is tried again: after ten seconds, and then after twice as long each time, up to five minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redirect.attach import Attachments
from redirect.errors import RedirectError
from redirect.observe import Observed
from redirect.pins import Pins

log = logging.getLogger(__name__)

FIRST_AGAIN_S, LAST_AGAIN_S = 10.0, 300.0


class Settling:
    """Of one instance; `attachments` are settled while its lock is held."""

    def __init__(
        self, pins: Pins, attachments: Attachments, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._pins = pins
        self._attachments = attachments
        self._left: frozenset[tuple[int, str]] = frozenset()
        self._monotonic = monotonic
        self._again: dict[tuple[int, str], tuple[float, float]] = {}
        """Of what could not be settled: when it is tried again, and how long that was put off."""

    def note(self, observed: Observed) -> None:
        """What is to be settled; who is behind others goes before them first, which settles it too."""
        self._again = {at: each for at, each in self._again.items() if at in observed.provisional}
        now_s = self._monotonic()
        waiting = {at for at, (due_s, _) in self._again.items() if due_s > now_s}
        found = observed.provisional - observed.behind.keys() - waiting
        if found - self._again.keys() and not self._left:
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
        until_s = self._monotonic() + at_most_s
        with self._pins.locked():
            for ifindex, program in sorted(self._left):
                self._left -= {(ifindex, program)}
                try:
                    self._attachments.settle(ifindex, program)
                except (RedirectError, OSError) as error:
                    self._put_off(ifindex, program, error)
                else:
                    self._again.pop((ifindex, program), None)
                if self._monotonic() > until_s:
                    break
        if not self._left and not self._again:
            log.info("what was attached as filters in haste is links now")

    def _put_off(self, ifindex: int, program: str, error: RedirectError | OSError) -> None:
        _, before_s = self._again.get((ifindex, program), (0.0, FIRST_AGAIN_S / 2))
        wait_s = min(2 * before_s, LAST_AGAIN_S)
        self._again[ifindex, program] = self._monotonic() + wait_s, wait_s
        log.warning(
            "%s of interface %d stays a filter, which captures as well: %s; tried again in %.0f s",
            program,
            ifindex,
            error,
            wait_s,
        )
