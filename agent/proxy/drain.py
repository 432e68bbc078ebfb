"""How a worker stops: accept nothing more, tell peers, let live connections finish, cut at the deadline.

Accepting ends by closing this worker's listener fds; queued connections stay with the socket, which the
control process holds and gives to another worker. GOAWAY goes to every peer at once (lame duck). What was
accepted is served, handshakes included; state goes on to be applied, so a policy still cuts at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.model.counted import counted
from agent.model.outcome import Outcome
from agent.proxy.dataplane import DataPlane

log = logging.getLogger(__name__)

POLL_S = 0.1


class Drain:
    """One stop. `finished` is called once, when nothing is left or the deadline has passed.

    Not while `is_busy`: a connection is on its way to another process, or from one.
    """

    def __init__(
        self,
        plane: DataPlane,
        stop_accepting: Callable[[], None],
        finished: Callable[[], None],
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = plane.loop
        self._plane = plane
        self._stop_accepting = stop_accepting
        self._finished = finished
        self._is_busy = is_busy
        self._deadline_s: float | None = None
        self._allowed_s = 0.0

    def start(self, deadline_s: float) -> None:
        """Begin; a second call may only shorten the time left."""
        end = self._loop.now() + deadline_s
        if self._deadline_s is not None:
            if end < self._deadline_s:
                self._deadline_s, self._allowed_s = end, deadline_s
            return
        self._deadline_s, self._allowed_s = end, deadline_s
        self._stop_accepting()
        self._plane.pool.go_away()
        self._plane.inbound.go_away()
        self._check()

    def _check(self) -> None:
        assert self._deadline_s is not None
        if self._is_busy():
            self._loop.later(POLL_S, self._check)
        elif not self._has_work():
            self._finished()
        elif self._loop.now() >= self._deadline_s:
            reason = f"the agent stopped and its drain deadline of {self._allowed_s:g} s passed"
            log.warning("%s: resetting %s", reason, counted(len(self._plane.registry), "live connection"))
            self._plane.say_why(reason)
            self._plane.registry.close_all(Outcome.DRAINED, reason)
            # One more turn lets the resets leave before the process does.
            self._loop.later(POLL_S, self._finished)
        else:
            self._loop.later(POLL_S, self._check)

    def _has_work(self) -> bool:
        # HBONE connections of peers too: before or in a handshake, or with a CONNECT on its way that crossed our
        # GOAWAY. Those of the pool only carry tunnels of registered connections.
        return bool(len(self._plane.registry) or self._plane.inbound.held)
