"""A name server over UDP and TCP, in a pod of a lab or on loopback, and queries out of a pod."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import NamedTuple

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

from redirect.netns import entered
from tests.support.labtraffic import PATIENCE_S

Zone = Mapping[tuple[str, str], Sequence[str]]
"""(name, kind) -> data; a name that is not there does not exist."""
SOA = "ns.test. admin.test. 1 3600 600 86400 30"


class Asked(NamedTuple):
    client: str
    transport: str
    name: str
    kind: str


def _both(port: int) -> tuple[socket.socket, socket.socket]:
    """Bound to one port. What is free for datagrams may be somebody's for connections: then it is another."""
    while True:
        udp, tcp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind(("::", port))
            tcp.bind(("::", udp.getsockname()[1]))
        except OSError:
            udp.close()
            tcp.close()
            if port:
                raise
        else:
            return udp, tcp


class PodNameServer:
    """For a `with`. Answers by the zone, each record good for `ttl_s`; port 0 is any that is free for both."""

    def __init__(self, netns: Path | None, zone: Zone, ttl_s: int = 60, port: int = 53) -> None:
        self._zone = dict(zone)
        self._ttl_s = ttl_s
        self.asked: list[Asked] = []
        self.is_silent = False
        """It hears, and does not answer."""
        self._closing = ExitStack()
        with nullcontext() if netns is None else entered(netns):
            self._udp, self._tcp = _both(port)
        self._closing.enter_context(self._udp)
        self._closing.enter_context(self._tcp)
        self.port = int(self._udp.getsockname()[1])
        # Each answer leaves by the address that was asked.
        self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._tcp.listen()
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> PodNameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopped)
        self._thread.join()
        os.close(self._stop)
        self._closing.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for source in (self._udp, self._tcp, self._stop):
                selector.register(source, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj == self._stop:
                        return
                    if key.fileobj is self._udp:
                        data, ancillary, _, peer = self._udp.recvmsg(4096, 128)
                        answer = self._answer(data, peer[0], "udp")
                        if not self.is_silent:
                            self._udp.sendmsg([answer], ancillary, 0, peer)
                    else:
                        self._serve(*self._tcp.accept())

    def _serve(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        with connection:
            connection.settimeout(PATIENCE_S)
            (length,) = struct.unpack(">H", connection.recv(2, socket.MSG_WAITALL))
            answer = self._answer(connection.recv(length, socket.MSG_WAITALL), peer[0], "tcp")
            if not self.is_silent:
                connection.sendall(struct.pack(">H", len(answer)) + answer)

    def _answer(self, data: bytes, client: str, transport: str) -> bytes:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(Asked(client.removeprefix("::ffff:"), transport, name, kind))
        answer = dns.message.make_response(query, recursion_available=True)
        answer.flags |= dns.flags.AA
        found = self._zone.get((name, kind), ())
        if found:
            answer.answer.append(dns.rrset.from_text(name, self._ttl_s, "IN", kind, *found))
        else:
            answer.authority.append(dns.rrset.from_text("test.", self._ttl_s, "IN", "SOA", SOA))
            if not any(known == name for known, _ in self._zone):
                answer.set_rcode(dns.rcode.NXDOMAIN)
        most = 65535 if transport == "tcp" else max(512, query.payload)
        return answer.to_wire(max_size=most, prefer_truncation=True)


def asked_of(
    netns: Path,
    server: str,
    name: str,
    kind: str = "A",
    *,
    over_tcp: bool = False,
    timeout_s: float = PATIENCE_S,
) -> dns.message.Message:
    """The answer of whoever answers, in that server's name. Raises TimeoutError."""
    query = dns.message.make_query(name, kind)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with entered(netns):
        sock = socket.socket(family, socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(timeout_s)
        # Connected: the kernel drops what comes from anybody else.
        sock.connect((server, 53))
        wire = query.to_wire()
        if over_tcp:
            sock.sendall(struct.pack(">H", len(wire)) + wire)
            (length,) = struct.unpack(">H", sock.recv(2, socket.MSG_WAITALL))
            data = sock.recv(length, socket.MSG_WAITALL)
        else:
            sock.send(wire)
            data = sock.recv(65535)
    answer = dns.message.from_wire(data)
    assert query.is_response(answer)
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    """What the answer says, each record's data."""
    return sorted(row.to_text() for rrset in answer.answer for row in rrset)
