"""Looks a name up for a SOCKS5 client as for its pod's DNS, one family and one name server after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from agent.dns.messages import UnusableName, query
from agent.dns.records import NOERROR, NXDOMAIN, MalformedMessage, addresses, rcode
from agent.model.address import IP
from agent.proxy.dns_service import DnsService

OnEnd = Callable[[IP | None, str], None]
"""The address, or why there is none."""


class Lookup:
    """`on_end` is called once, maybe within `start`. Without `servers` only the mesh is asked."""

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
        self._steps: Iterator[tuple[int, IP]] = product(versions, servers or (client,))
        self._version = 0
        self._is_answered = False
        self._why = ""
        self._on_end = on_end

    def start(self) -> None:
        self._next()

    def _next(self) -> None:
        for version, server in self._steps:
            if version == self._version and self._is_answered:
                continue  # another server has said already that it has none of this family
            self._version, self._is_answered = version, False
            try:
                message = query(self._name, version)
            except UnusableName as error:
                self._on_end(None, f"{self._name!r} is no name that can be looked up: {error}")
                return
            # Over TCP: its answers come back to us whether or not the pod's DNS is captured.
            answer = self._service.take(self._client, server, message, self._late, over_tcp=True)
            if answer is None:
                return
            if self._answered(answer):
                return
        self._on_end(None, self._why or f"{self._name} has no address")

    def _late(self, answer: bytes) -> None:
        if not self._answered(answer):
            self._next()

    def _answered(self, answer: bytes) -> bool:
        """Whether that was the end."""
        try:
            found = addresses(answer, self._version)
        except MalformedMessage as error:
            found, self._why = [], f"the answer for {self._name} cannot be read: {error}"
        if found:
            self._on_end(found[0], "")
            return True
        code = rcode(answer)
        self._is_answered = code in (NOERROR, NXDOMAIN)
        if code == NXDOMAIN:
            self._why = f"{self._name} does not exist"
        elif not self._is_answered:
            whom = "its name servers fail" if self._has_servers else "the node has no name server to ask"
            self._why = f"{self._name} is no name of the mesh, and {whom} (code {code})"
        return False
