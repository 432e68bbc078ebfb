"""SOCKS5 (RFC 1928) as a server: what a client asks for, and the answers to it. Sans-IO.

No authentication, as ztunnel: who a client is, its address says already. CONNECT alone. A client may send what is for
its destination before it is answered, so no more may be read than is `wanted`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from agent.model.address import IP, AddressError, ip_from_bytes, parse_ip

VERSION, CONNECT = 5, 1
NO_AUTHENTICATION, NONE_OF_THEM = 0, 0xFF
IPV4, NAME, IPV6 = 1, 3, 4
_PORT = struct.Struct(">H")
CHOSEN = bytes((VERSION, NO_AUTHENTICATION))


class Reply(IntEnum):
    """RFC 1928, 6."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    COMMAND_UNKNOWN = 7
    ADDRESS_UNKNOWN = 8


class Asked(NamedTuple):
    """Where a client wants to go: `ip` where it says so itself, else `name` (as it spells it)."""

    ip: IP | None
    name: str
    port: int

    def __str__(self) -> str:
        host = self.name or (f"[{self.ip}]" if self.ip is not None and self.ip.version == 6 else self.ip)
        return f"{host}:{self.port}"


class NotServed(Exception):
    """The client speaks otherwise, or wants what there is not. `answer`: what it is told before the end."""

    def __init__(self, text: str, answer: bytes) -> None:
        super().__init__(text)
        self.answer = answer


class Conversation:
    """Up to the request. Give `receive` at most `wanted` bytes, until there is an answer in `asked`."""

    def __init__(self) -> None:
        self.asked: Asked | None = None
        self._greeting = True
        self._size = 2
        self._arrived = bytearray()

    @property
    def wanted(self) -> int:
        """How many bytes may be read; 0 once the request is there."""
        return 0 if self.asked is not None else self._size - len(self._arrived)

    def receive(self, data: bytes) -> bytes:
        """What is to be sent, mostly nothing. Raises NotServed."""
        if len(data) > self.wanted:
            raise ValueError("more was read than the conversation wants")
        arrived = self._arrived
        arrived += data
        if arrived and arrived[0] != VERSION:
            raise NotServed(f"version {arrived[0]} of SOCKS, not 5", b"")
        if len(arrived) < self._size:
            return b""
        if self._greeting:
            return self._greeted()
        self._requested()
        return b""

    def _greeted(self) -> bytes:
        arrived = self._arrived
        self._size = 2 + arrived[1]
        if len(arrived) < self._size:
            return b""
        if NO_AUTHENTICATION not in arrived[2:]:
            raise NotServed("only with authentication, which there is not", bytes((VERSION, NONE_OF_THEM)))
        self._greeting = False
        self._size = 5
        arrived.clear()
        return CHOSEN

    def _requested(self) -> None:
        arrived = self._arrived
        command, kind, first = arrived[1], arrived[3], arrived[4]
        if command != CONNECT:
            raise NotServed(f"command {command}, not CONNECT", reply(Reply.COMMAND_UNKNOWN))
        sizes = {IPV4: 4 + 4 + 2, NAME: 4 + 1 + first + 2, IPV6: 4 + 16 + 2}
        if kind not in sizes:
            raise NotServed(f"an address of kind {kind}", reply(Reply.ADDRESS_UNKNOWN))
        self._size = sizes[kind]
        if len(arrived) < self._size:
            return
        address, (port,) = bytes(arrived[4:-2]), _PORT.unpack(arrived[-2:])
        if kind == NAME:
            self.asked = _named(address[1:], port)
        else:
            self.asked = Asked(ip_from_bytes(address), "", port)


def _named(raw: bytes, port: int) -> Asked:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise NotServed("a name that is no UTF-8", reply(Reply.FAILED)) from error
    try:
        return Asked(parse_ip(name), "", port)
    except AddressError:
        pass
    if not name.strip("."):
        raise NotServed("a name without a letter", reply(Reply.HOST_UNREACHABLE))
    return Asked(None, name, port)


def reply(code: Reply) -> bytes:
    """The answer to a request. The address at the end of it is always nobody's, as ztunnel's."""
    return bytes((VERSION, code, 0, IPV4)) + bytes(6)
