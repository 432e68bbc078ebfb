"""Looks a name up for a SOCKS5 client as for its pod's DNS, one family and one name server after the other.

Where a server takes its time the next question is asked beside it; the first useful answer counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from agent.dns.messages import UnusableName, query
from agent.dns.records import NOERROR, NXDOMAIN, MalformedMessage, addresses, rcode
from agent.model.address import IP
from agent.net.loop import Timer
from agent.proxy.dns_service import DnsService

OnEnd = Callable[[IP | None, str], None]
"""The address, or why there is none."""
Step = tuple[int, IP]
"""A family, and the server that is asked for it."""
NEXT_S = 1.5
"""How long a server may take before the next question goes out."""
LIMIT_S = 5.0
"""For all of it: clients give up on a name after about as long."""


class Lookup:
    """`on_end` is called once, maybe within `start`, unless `cancel` was. Without `servers` only the mesh is asked."""

    def __init__(
        self,
        service: DnsService,
        client: IP,
        name: str,
        versions: Sequence[int],
        servers: Sequence[IP],
        on_end: OnEnd,
    ) -> None:
        self._service = service
        self._client = client
        self._name = name
        self._has_servers = bool(servers)
        # The client's own address is no server that could be asked: it stands for none.
        self._steps: list[Step] = list(product(versions, servers or (client,)))
        self._asked: list[Step] = []
        """Without an answer so far."""
        self._slow: set[IP] = set()
        self._answered: set[int] = set()
        """Families that a server has said all about."""
        self._why = ""
        self._timer: Timer | None = None
        self._deadline: Timer | None = None
        self._on_end: OnEnd | None = on_end

    def start(self) -> None:
        self._deadline = self._service.loop.later(LIMIT_S, self._give_up)
        self._next()

    def cancel(self) -> None:
        self._on_end = None
        self._stop_timers()

    def _next(self) -> None:
        """Ask what is to be asked next, and all that is answered at once."""
        self._stop_timer()
        while self._on_end is not None:
            left = [step for step in self._steps if step[0] not in self._answered]
            if not left:
                self._asked = [step for step in self._asked if step[0] not in self._answered]
                if not self._asked:
                    self._end(None, self._why or f"{self._name} has no address")
                return
            # Of a family those first that have not been slow so far.
            of_family = [each for each in left if each[0] == left[0][0]]
            step = next((each for each in of_family if each[1] not in self._slow), of_family[0])
            self._steps.remove(step)
            if not self._ask(step):
                return

    def _ask(self, step: Step) -> bool:
        """Whether there was an answer at once."""
        version, server = step
        try:
            message = query(self._name, version)
        except UnusableName as error:
            self._end(None, f"{self._name!r} is no name that can be looked up: {error}")
            return True
        # Over TCP: its answers come back to us whether or not the pod's DNS is captured.
        answer = self._service.take(self._client, server, message, partial(self._late, step), over_tcp=True)
        if answer is None:
            self._asked.append(step)
            self._timer = self._service.loop.later(NEXT_S, partial(self._on_slow, step))
            return False
        self._hear(version, answer)
        return True

    def _on_slow(self, step: Step) -> None:
        self._slow.add(step[1])
        self._next()

    def _late(self, step: Step, answer: bytes) -> None:
        if self._on_end is not None:
            if step in self._asked:
                self._asked.remove(step)
            self._hear(step[0], answer)
            self._next()

    def _hear(self, version: int, answer: bytes) -> None:
        try:
            found = addresses(answer, version)
        except MalformedMessage as error:
            found, self._why = [], f"the answer for {self._name} cannot be read: {error}"
        if found:
            self._end(found[0], "")
            return
        code = rcode(answer)
        if code in (NOERROR, NXDOMAIN):
            # No other server is asked for this family.
            self._answered.add(version)
        if code == NXDOMAIN:
            self._why = f"{self._name} does not exist"
        elif code != NOERROR:
            whom = "its name servers fail" if self._has_servers else "the node has no name server to ask"
            self._why = f"{self._name} is no name of the mesh, and {whom} (code {code})"

    def _give_up(self) -> None:
        self._deadline = None
        self._end(None, self._why or f"no name server has said in {LIMIT_S:g} s what {self._name} is")

    def _end(self, ip: IP | None, why: str) -> None:
        on_end, self._on_end = self._on_end, None
        self._stop_timers()
        if on_end is not None:
            on_end(ip, why)

    def _stop_timers(self) -> None:
        self._stop_timer()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
