"""A name server on loopback, by dnspython: it answers what the test says, over UDP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = Mapping[tuple[str, str], tuple[int, Sequence[str]]]
"""(name, kind) -> (TTL, addresses)."""


class NameServer:
    """For a `with`. A name of the zone that has no such kind has no data; one that is not there does not exist."""

    def __init__(self, zone: Zone, rcode: str = "") -> None:
        self.zone = dict(zone)
        self.rcode = rcode
        """Says this to every question, where there is one."""
        self.is_silent = False
        self.asked: list[tuple[str, str]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def resolver(self) -> dns.asyncresolver.Resolver:
        """One that asks nobody else."""
        made = dns.asyncresolver.Resolver(configure=False)
        made.nameservers = ["127.0.0.1"]
        made.port = self.port
        return made

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def _run(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            (question,) = query.question
            name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
            self.asked.append((name, kind))
            if self.is_silent:
                continue
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.RA
            if self.rcode:
                answer.set_rcode(dns.rcode.from_text(self.rcode))
            elif (name, kind) in self.zone:
                ttl, addresses = self.zone[name, kind]
                answer.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *addresses))
            elif not any(name == known for known, _ in self.zone):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), client)
