"""How soon the control plane is asked again: at once when it was away, seldom when it says no.

A policy that is written while an agent reconnects is not in force on that node before it has: this bounds how late it
is. Asking a control plane that is not there costs it nothing, so those who wait for one are there when it comes back,
and one that restarts does not make them slower each time. What it answers with a no (a token it does not take, limits
it is over, a root that is not ours) stays one until somebody changes something, and asking often would be the load that
it is over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import grpc

from agent.model.backoff import Backoff
from agent.rpc.rpc_errors import is_transient

# Half the delay is random: the nodes of a mesh must not come back in step when a control plane restarts.
AWAY = Backoff(first_s=0.1, cap_s=1.5, jitter=0.5)
SAYS_NO = Backoff(first_s=0.1, cap_s=15.0, jitter=0.5)


def says_no(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call failed by what the other end is or says, and not because it was away, starting or stopping."""
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED or not is_transient(error)


@dataclass(slots=True)
class Retry:
    """The waits of one who retries; counts the failures of one kind in a row."""

    rng: Random
    _is_no: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self._failures = 0

    def delay_s(self, *, is_no: bool) -> float:
        """The wait after one more failure. The first of its kind is followed by a short one, whatever was before."""
        if is_no is not self._is_no:
            self._is_no, self._failures = is_no, 0
        self._failures += 1
        return (SAYS_NO if is_no else AWAY).delay_s(self._failures, self.rng)
