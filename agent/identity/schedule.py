"""When a certificate is fetched next, and which of several goes first. Pure (docs/WIRE.md#certificates).

Times are seconds since the epoch; the clock and the randomness belong to the caller.
"""

from __future__ import annotations

from enum import IntEnum
from random import Random

from agent.model.backoff import Backoff

RETRY = Backoff(first_s=1.0, cap_s=150.0, jitter=0.2)
SOON = Backoff(first_s=0.1, cap_s=1.0, jitter=0.2)
"""While the start of a pod waits for it."""
# However short a certificate lives, the CA is not asked more often.
MIN_INTERVAL_S = 1.0


class Priority(IntEnum):
    """Who is served first when fetches queue; smaller is sooner."""

    REALTIME = 0
    """A connection waits for it."""
    WARMUP = 1
    """In use, not needed yet."""
    BACKGROUND = 2
    """Renewal of one that is still valid."""


def renewal_time(not_before: float, not_after: float, now: float) -> float:
    """Half of the lifetime; when that has passed already, half of what is left.

    The second case is a CA close to its own end, which cuts what it issues: renewing at once would spin.
    """
    half = not_before + (not_after - not_before) / 2
    if half <= now:
        half = now + (not_after - now) / 2
    return max(half, now + MIN_INTERVAL_S)


def latest_retry(now: float) -> float:
    """No retry is due later, however often it failed before."""
    return now + RETRY.longest_s


def retry_time(now: float, failures: int, not_after: float | None, rng: Random) -> float:
    """After the n-th failure in a row. With a valid certificate in hand never later than its expiry."""
    retry = now + RETRY.delay_s(failures, rng)
    return retry if not_after is None or not_after <= now else min(retry, not_after)
