"""What a worker knows of host names: the addresses of workloads that are known by nothing else.

The control process looks them up (`dns.host_names`) and tells; here they are only read. A name that nobody could look
up is a reason to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from agent.model.address import IP, parse_ip
from agent.model.outcome import Outcome, Refusal


class NotLookedUp(Refusal):
    """Nobody has said yet what a name stands for; soon somebody will."""


class NamedHosts:
    """By host name its addresses, or why there are none. One per worker.

    `unknown`: why there are none of a name that nothing was told of; empty where it is only not known yet.
    """

    def __init__(self, unknown: str = "") -> None:
        self._unknown = unknown
        self._known: dict[str, tuple[tuple[IP, ...], str]] = {}

    def told(self, names: Iterable[tuple[str, Sequence[str], str]], gone: Iterable[str]) -> None:
        for host in gone:
            self._known.pop(host, None)
        for host, addresses, error in names:
            self._known[host] = tuple(map(parse_ip, addresses)), error

    def pick(self, host: str, version: int, rng: Random) -> IP:
        """One of its addresses, of that family where there is one. Raises Refusal."""
        addresses, error = self._known.get(host, ((), self._unknown))
        if not addresses and not error:
            raise NotLookedUp(Outcome.UNRESOLVED, f"{host} has not been looked up yet")
        if not addresses:
            raise Refusal(Outcome.UNRESOLVED, error)
        same = [address for address in addresses if address.version == version]
        return rng.choice(same or addresses)
