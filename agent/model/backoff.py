"""How long to wait before trying again: exponential growth to a cap, spread by jitter.

A frozen rule, not a timer: who retries keeps the count of failures and does the sleeping.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """`first_s * factor ** (failures - 1)`, at most `cap_s`, times 1 ± `jitter` (0 to 1)."""

    first_s: float
    cap_s: float
    factor: float = 2.0
    jitter: float = 0.2

    @property
    def longest_s(self) -> float:
        """What no wait exceeds."""
        return self.cap_s * (1 + self.jitter)

    def delay_s(self, failures: int, rng: Random) -> float:
        """The wait after this many failures in a row (1 = the first). Never zero."""
        if failures < 1:
            raise ValueError(f"a back-off follows a failure; {failures} is none")
        delay_s = self.first_s
        for _ in range(failures - 1):
            # Not a power: with a server away for days it would overflow a float.
            if delay_s >= self.cap_s:
                break
            delay_s *= self.factor
        return min(delay_s, self.cap_s) * (1 + self.jitter * (2 * rng.random() - 1))
