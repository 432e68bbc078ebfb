"""Connections whose destination the mesh state lacks: held until it is there, for a second at most.

A pod is dialled the moment it is born, and its description comes a moment later. Where the control plane sends the
whole mesh nothing is asked, it is waited for; where the state is partial the control process asks by name, one question
for all that wait. A name that was looked for in vain is not looked for again for some seconds (`state.absent`), so that
whoever dials addresses that nobody has is refused as fast as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from agent.model.address import IP, NamespacedHostname, NetworkAddress
from agent.model.outcome import Outcome, Refusal, Unknown
from agent.net.loop import Loop, Timer
from agent.state.absent import Absent
from agent.state.apply import Changes
from agent.state.snapshot import Snapshot

HOLD_S = 1.0
"""How long a connection waits in all, whatever it waits for."""
WAITING_LIMIT, WAITING_OF_CLIENT = 1024, 64


class Seeking(Protocol):
    """Who waits."""

    def again(self) -> None:
        """It is there, or known to be nowhere."""

    def refused(self, refusal: Refusal) -> None: ...


class Wait:
    """One that waits, or has: an attempt that may be given up. `until_s`: of the loop's clock."""

    __slots__ = ("client", "is_answered", "looked_for", "seeker", "timer", "unknown", "until_s", "who")

    def __init__(self, seeker: Seeker, client: IP, until_s: float) -> None:
        self.seeker = seeker
        self.client = client
        self.until_s = until_s
        self.looked_for: list[str] = []
        """So that nothing is waited for twice."""
        self.unknown: Unknown | None = None
        self.is_answered = False
        """The control plane did not know it when it was asked."""
        self.who: Seeking | None = None
        self.timer: Timer | None = None

    def cancel(self) -> None:
        self.seeker.forget(self)


class Seeker:
    """One per worker. `is_partial`: the state holds what was asked for; without it nothing is asked.

    `ask` has the control plane asked for names, as long as somebody is there who does.
    """

    def __init__(self, loop: Loop, absent: Absent, *, is_partial: bool) -> None:
        self._loop = loop
        self._absent = absent
        self._is_partial = is_partial
        self._waiting: dict[str, list[Wait]] = {}
        self._count = 0
        self._of_client: dict[IP, int] = {}
        self.ask: Callable[[Sequence[str]], None] | None = None

    def __len__(self) -> int:
        return self._count

    def seek(self, unknown: Unknown, client: IP, who: Seeking, before: Wait | None) -> Wait:
        """Have `who` wait for what is unknown. `before`: it has waited already. Raises Refusal: it need not wait."""
        name = str(unknown.key)
        wait = before or Wait(self, client, self._loop.now() + HOLD_S)
        if name in wait.looked_for:
            raise unknown
        if self._count >= WAITING_LIMIT or self._of_client.get(client, 0) >= WAITING_OF_CLIENT:
            raise Refusal(Outcome.OVERLOADED, f"too many connections wait to hear who has {name}")
        wait.looked_for.append(name)
        wait.unknown, wait.who, wait.is_answered = unknown, who, False
        wait.timer = self._loop.later(max(0.0, wait.until_s - self._loop.now()), wait_over(self, wait))
        others = self._waiting.setdefault(name, [])
        others.append(wait)
        self._count += 1
        self._of_client[client] = self._of_client.get(client, 0) + 1
        if self._is_partial and self.ask is not None and len(others) == 1:
            self.ask((name,))
        return wait

    def forget(self, wait: Wait) -> None:
        """It waits no longer."""
        if wait.who is None or wait.timer is None:
            return
        name = wait.looked_for[-1]
        wait.timer.cancel()
        wait.timer = wait.who = wait.unknown = None
        others = self._waiting[name]
        others.remove(wait)
        if not others:
            del self._waiting[name]
        self._count -= 1
        self._of_client[wait.client] -= 1
        if not self._of_client[wait.client]:
            del self._of_client[wait.client]

    def changed(self, snapshot: Snapshot, changes: Changes) -> None:
        """The state is another: whoever waited for something in it goes on."""
        for name in tuple(self._waiting):
            unknown = self._waiting[name][0].unknown if name in self._waiting else None
            if unknown is not None and is_known(snapshot, unknown.key):
                self._go_on(name)

    def answered(self, names: Iterable[str]) -> None:
        """The control plane has said what these are, and that is in the state by now.

        What it does not know goes on without, or waits for its birth where it would be refused.
        """
        for name in names:
            waiting = tuple(self._waiting.get(name, ()))
            for wait in waiting:
                wait.is_answered = True
            goes_on = [w for w in waiting if w.unknown is not None and not w.unknown.is_final]
            if goes_on:
                self._absent.add(name)
            for wait in goes_on:
                self._end(wait)

    def over(self, wait: Wait) -> None:
        """Its time is over."""
        name, who = wait.looked_for[-1], wait.who
        self.forget(wait)
        if who is None:
            return
        if self._is_partial and not wait.is_answered:
            text = f"the control plane did not say within {HOLD_S:g} s who has {name}"
            who.refused(Refusal(Outcome.UNKNOWN_MESH_DESTINATION, text))
            return
        self._absent.add(name)
        who.again()

    def _go_on(self, name: str) -> None:
        for wait in tuple(self._waiting[name]):
            self._end(wait)

    def _end(self, wait: Wait) -> None:
        who = wait.who
        self.forget(wait)
        if who is not None:
            who.again()


def wait_over(seeker: Seeker, wait: Wait) -> Callable[[], None]:
    return lambda: seeker.over(wait)


def is_known(snapshot: Snapshot, key: NetworkAddress | NamespacedHostname) -> bool:
    if isinstance(key, NetworkAddress):
        owner = snapshot.workload_at(key.network, key.ip)
        return owner is not None or snapshot.service_at(key.network, key.ip, None) is not None
    by_name = snapshot.workload_by_hostname(key.namespace, key.hostname)
    return by_name is not None or key in snapshot.services
