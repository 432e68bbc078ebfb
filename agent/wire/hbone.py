"""HBONE on top of HTTP/2: legal CONNECT requests and answers (docs/WIRE.md#connect).

A request has `:method: CONNECT` and `:authority: HOST:PORT` and no other pseudo field. What is merely not
HBONE is answered with a status; what no HTTP/2 peer may send resets the stream. Whether the destination is
one of ours is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from agent.model.address import AddressError, parse_ip, split_host_port
from agent.wire.h2_frames import ErrorCode, H2StreamError

ACCEPTED = 200
BAD_REQUEST = 400

_HOSTNAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_NOT_IN_CONNECT = (":scheme", ":path", ":protocol", ":status")


class BadConnect(Exception):
    """The request is legal HTTP/2 but not HBONE: answer `status`, keep the connection."""

    def __init__(self, text: str, status: int = BAD_REQUEST) -> None:
        super().__init__(text)
        self.status = status


class ConnectHead(NamedTuple):
    """A CONNECT request. `host` is an IP's text without brackets, or a hostname; names are lower-case."""

    authority: str
    host: str
    port: int
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str | None:
        """The first value of a header, None where it is absent."""
        return next((value for key, value in self.headers if key == name), None)

    def values(self, name: str) -> tuple[str, ...]:
        return tuple(value for key, value in self.headers if key == name)


def connect_head(authority: str, headers: Iterable[tuple[str, str]] = ()) -> ConnectHead:
    """A request to send. Raises BadConnect when `authority` is not HOST:PORT."""
    host, port = parse_authority(authority)
    return ConnectHead(authority, host, port, tuple(headers))


@lru_cache(maxsize=1024)
def parse_authority(authority: str) -> tuple[str, int]:
    """`IPv4:port`, `[IPv6]:port` or `hostname:port`. Raises BadConnect."""
    try:
        host, port = split_host_port(authority)
    except AddressError as error:
        raise BadConnect(f"the CONNECT's authority {error}") from None
    if ":" in host:
        try:
            parse_ip(host)
        except AddressError as error:
            raise BadConnect(f"the CONNECT's authority {error}") from None
    elif not _HOSTNAME.fullmatch(host):
        raise BadConnect(f"the CONNECT's authority {authority!r} has no legal host")
    return host, port


def parse_connect(fields: list[tuple[str, str]]) -> ConnectHead:
    """A received request. Raises BadConnect (answer its status) or H2StreamError (reset the stream).

    `fields` are checked already for what holds for all of HTTP/2 (`h2_headers.check_fields`).
    """
    pseudo = {name: value for name, value in fields if name[0] == ":"}
    method = pseudo.get(":method")
    if method is None:
        raise H2StreamError(ErrorCode.PROTOCOL_ERROR, "a request without :method")
    if method != "CONNECT":
        raise BadConnect(f"the method is {method[:32]!r}; HBONE knows only CONNECT")
    for name in _NOT_IN_CONNECT:
        if name in pseudo:
            raise H2StreamError(ErrorCode.PROTOCOL_ERROR, f"a CONNECT with {name}")
    authority = pseudo.get(":authority", "")
    host, port = parse_authority(authority)
    return ConnectHead(authority, host, port, tuple(fields[len(pseudo) :]))


def parse_status(fields: list[tuple[str, str]]) -> int:
    """The status of an answer. Raises H2StreamError when there is none."""
    for name, value in fields:
        if name == ":status" and len(value) == 3 and value.isascii() and value.isdigit():
            return int(value)
    raise H2StreamError(ErrorCode.PROTOCOL_ERROR, "an answer without a legal :status")
