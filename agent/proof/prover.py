"""Runs the proofs, every two seconds, and says how old the last complete round is.

Each check observes one part and answers what it finds broken; one that fails, or takes longer than a round may,
is itself a finding: what could not be proven is not claimed. Knows nothing of what the checks look at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from agent.proof.findings import Check, Finding, Ledger, Link, Standing

log = logging.getLogger(__name__)

ROUND_S = 2.0
CHECK_PATIENCE_S = 10.0
STALE_ROUNDS = 3


class Prover:
    """One per agent. `checks` by name; `wall` is seconds since the epoch, `clock` monotonic seconds."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        round_s: float = ROUND_S,
        patience_s: float = CHECK_PATIENCE_S,
    ) -> None:
        self._checks = checks
        self._wall = wall
        self._clock = clock
        self._round_s = round_s
        self._patience_s = patience_s
        self._ledger = Ledger()
        self._proven_at: float | None = None

    async def run(self) -> None:
        """Prove, round after round, until cancelled."""
        while True:
            await self.prove()
            await asyncio.sleep(self._round_s)

    async def prove(self) -> None:
        """One round: all checks side by side."""
        found = await asyncio.gather(*(self._run(name, check) for name, check in self._checks.items()))
        appeared, over = self._ledger.update((f for each in found for f in each), self._wall())
        for finding in appeared:
            if finding.is_remark:
                log.info("remark: %s", finding)
            else:
                log.warning("not as it should be: %s", finding)
        for finding in over:
            log.info("over: %s" if finding.is_remark else "in order again: %s", finding)
        self._proven_at = self._clock()

    @property
    def age_s(self) -> float | None:
        """Seconds since the last complete round; None before the first."""
        return None if self._proven_at is None else self._clock() - self._proven_at

    @property
    def standing(self) -> tuple[Standing, ...]:
        """Everything that is broken."""
        return self._ledger.standing

    @property
    def doubt(self) -> str:
        """Why nothing can be claimed now: no proof yet, or none lately. Empty when there is one."""
        age_s = self.age_s
        if age_s is None:
            return "nothing is proven yet: the first round of observations is under way"
        if age_s > STALE_ROUNDS * self._round_s + self._patience_s:
            return f"the last proof is {age_s:.0f} s old: the control process is overloaded or was stopped"
        return ""

    async def _run(self, name: str, check: Check) -> list[Finding]:
        try:
            async with asyncio.timeout(self._patience_s):
                return await check()
        except TimeoutError:
            reason = f"the proof of {name} took more than {self._patience_s:g} s"
        except Exception as error:
            log.debug("the proof of %s failed", name, exc_info=error)
            reason = f"the proof of {name} failed: {error or type(error).__name__}"
        return [Finding(Link.PROOF, "", reason, "the agent's log at level debug says where")]
