"""Addresses: IPs in canonical form, socket addresses, and addresses inside a named network.

IPv4-mapped IPv6 addresses become IPv4 here and nowhere else, so that every lookup after this file
compares like with like.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

IP = IPv4Address | IPv6Address
CIDR = IPv4Network | IPv6Network
SockName = tuple[str, int] | tuple[str, int, int, int]
"""What the socket module calls the address of an IP socket."""


_BROADCAST = IPv4Address("255.255.255.255")


class AddressError(ValueError):
    """The text or bytes are not an address; the message quotes them."""


class _V4(IPv4Address):
    """Knows its hash, and its text once somebody has asked for it: those of `ipaddress` reckon both anew.

    A connection looks its addresses up a score of times, and writes them down in its headers and in its line.
    """

    __slots__ = ("_hash", "_text")

    def __init__(self, address: str | bytes | int) -> None:
        super().__init__(address)
        self._hash = super().__hash__()
        self._text = ""

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        text = self._text = self._text or super().__str__()
        return text


class _V6(IPv6Address):
    """The same."""

    __slots__ = ("_hash", "_text")

    def __init__(self, address: str | bytes | int) -> None:
        super().__init__(address)
        self._hash = super().__hash__()
        self._text = ""

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        text = self._text = self._text or super().__str__()
        return text


@lru_cache(maxsize=16384)
def parse_ip(text: str) -> IP:
    """An IP from its text; IPv4-mapped IPv6 becomes IPv4; a zone (`%eth0`) is refused."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address") from error
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        raise AddressError(f"{text!r} carries a zone, which means nothing off its host")
    return ip_from_bytes(ip.packed)


@lru_cache(maxsize=16384)
def ip_from_bytes(raw: bytes) -> IP:
    """An IP from 4 or 16 bytes in network order."""
    if len(raw) == 4:
        return _V4(raw)
    if len(raw) == 16:
        ip = _V6(raw)
        return ip if ip.ipv4_mapped is None else _V4(ip.ipv4_mapped.packed)
    raise AddressError(f"an IP address has 4 or 16 bytes, not {len(raw)}")


def is_nobodys(ip: IP) -> bool:
    """Whether no one host of a network can have this address, whatever interface it is meant by."""
    return ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip == _BROADCAST


def parse_cidr(text: str) -> CIDR:
    """A network; host bits are dropped; a bare address is a network of one."""
    try:
        return _canonical(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP network (CIDR)") from error


def _canonical(network: CIDR) -> CIDR:
    """A range inside ::ffff:0:0/96 is the IPv4 range it stands for: only so can it contain an address."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return (
        network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))
    )


def cidr_from_bytes(raw: bytes, length: int) -> CIDR:
    """A network from the bytes of its address and a prefix length in bits."""
    if len(raw) not in (4, 16):
        raise AddressError(f"an IP address has 4 or 16 bytes, not {len(raw)}")
    if length > len(raw) * 8:
        raise AddressError(f"prefix length {length} is longer than the address ({len(raw) * 8} bits)")
    return _canonical(ipaddress.ip_network((raw, length), strict=False))


class SocketAddress(NamedTuple):
    """An IP and a port (host order). Prints as `1.2.3.4:80` or `[fd00::1]:80`."""

    ip: IP
    port: int

    def __str__(self) -> str:
        # `!s` goes around the address's own __format__, which costs as much again.
        return f"[{self.ip!s}]:{self.port}" if self.ip.version == 6 else f"{self.ip!s}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> SocketAddress:
        """From `IPv4:port` or `[IPv6]:port`; the port is 1 to 65535."""
        host, port = split_host_port(text)
        return cls(parse_ip(host), port)

    @classmethod
    def from_sockname(cls, name: SockName) -> SocketAddress:
        """From what `getsockname()` or `getpeername()` answers for an IP socket."""
        return cls(parse_ip(name[0].partition("%")[0]), name[1])


def split_host_port(text: str) -> tuple[str, int]:
    """`host:port` or `[IPv6]:port` into its parts; the host is not resolved or checked further."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed):
        raise AddressError(f"{text!r} is not HOST:PORT (IPv6 needs brackets)")
    # Python refuses to read numbers of thousands of digits, with an error of its own.
    if not (port.isascii() and port.isdigit() and len(port) <= 5) or not 1 <= int(port) <= 65535:
        raise AddressError(f"{text!r} has no port between 1 and 65535")
    return host, int(port)


def split_listen(listen: str) -> tuple[str, int]:
    """As `split_host_port`, of a place to listen at: port 0 is legal. Raises AddressError."""
    if listen.endswith(":0"):
        return split_host_port(listen[:-1] + "1")[0], 0
    return split_host_port(listen)


class NetworkAddress(NamedTuple):
    """An IP inside a named network; the default network is the empty string. Prints as `net/ip`."""

    network: str
    ip: IP

    def __str__(self) -> str:
        return f"{self.network}/{self.ip}"


class NamespacedHostname(NamedTuple):
    """The primary key of a Service. Prints as `namespace/hostname`."""

    namespace: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.hostname}"

    @classmethod
    def parse(cls, text: str) -> NamespacedHostname:
        namespace, slash, hostname = text.partition("/")
        if not slash or not hostname or "/" in hostname:
            raise AddressError(f"{text!r} is not NAMESPACE/HOSTNAME")
        return cls(namespace, hostname)
