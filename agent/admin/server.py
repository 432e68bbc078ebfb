"""A small HTTP/1.1 server for admin, metrics and readiness, over TCP on loopback or a unix socket.

One request per connection, no bodies above 1 MiB, two seconds for the head; answers are compressed for those who
take it. It knows paths and methods; what they answer is handed in as functions. Paths that change something are
given to the unix socket only: a loopback port is open to every process of the host's network namespace.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from agent.admin import compression
from agent.model.address import SocketAddress, split_host_port

log = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 2.0
MAX_HEAD_BYTES = 8192
MAX_BODY_BYTES = 1 << 20
_UCRED = struct.Struct("=iII")
"""`struct ucred` of unix(7): pid, uid, gid."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    ends: tuple[SocketAddress, SocketAddress] | None = None
    """Who asks, and where; None on a unix socket."""
    pid: int = 0
    """The process that asks on a unix socket; 0: not seen from here (another PID namespace), or by TCP."""

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises BadRequest."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BadRequest("the body is not a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Response:
    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    content_encoding: str = ""
    vary: tuple[str, ...] = ()
    """Headers of the request by which the answer was chosen, in lower case."""


class BadRequest(Exception):
    """The request cannot be served; its text is the answer (400)."""


def text(body: str, status: int = 200) -> Response:
    return Response(body.encode(), status)


def as_json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, indent=2, default=str).encode() + b"\n", status, "application/json")


Handler = Callable[[Request], Awaitable[Response]]
Routes = Mapping[tuple[str, str], Handler]
"""(method, path) -> handler; the method `*` answers any."""


class HttpServer:
    """Serves routes on any number of addresses until closed."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, int] | Path, asyncio.Server] = {}
        """By where they listen."""

    async def serve_tcp(self, address: str, routes: Routes) -> None:
        """Listen on HOST:PORT. Raises OSError, with the address in its text, when it is taken."""
        host, port = split_host_port(address)
        try:
            sock = listening(host, port)
            server = await asyncio.start_server(self._connection(routes), sock=sock, limit=MAX_HEAD_BYTES)
        except OSError as error:
            # create_server() repeats the address in its text, and hands on the resolver's numbers, which are below zero
            number = error.errno or 0
            reason = os.strerror(number) if number >= 0 else "there is no such host"
            raise OSError(error.errno, f"cannot listen on {address}: {reason}") from error
        self._servers[sock.getsockname()[:2]] = server

    async def serve_unix(self, path: Path, routes: Routes) -> None:
        """Listen on a unix socket that only its owner may open, in place of what listened by that name before."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._connection(routes), str(path), limit=MAX_HEAD_BYTES)
        path.chmod(0o600)
        former = self._servers.get(path)
        if former is not None:
            former.close()
        self._servers[path] = server

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        for server in self._servers.values():
            await server.wait_closed()
        self._servers.clear()

    def _connection(
        self, routes: Routes
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                response = await self._answer(reader, writer, routes)
                if response is not None:
                    writer.write(render(response))
                    await writer.drain()
            except OSError as error:
                log.debug("admin: a client went away: %s", error)
            finally:
                writer.close()

        return serve

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, routes: Routes
    ) -> Response | None:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                request = await read_request(reader)
        except asyncio.IncompleteReadError:
            return None
        except (TimeoutError, asyncio.LimitOverrunError):
            return text("the request head is too long or came too slowly\n", 408)
        except BadRequest as error:
            return text(f"{error}\n", 400)
        if request.method != "GET" and is_gone(writer):
            # Requests wait in the queue while this process stands still. Who gave up was told that nothing happened.
            log.warning("admin: %s %s is not carried out: who asked is gone", request.method, request.path)
            return None
        request = replace(request, ends=ends(writer), pid=asking_pid(writer))
        return await encoded(request, await dispatch(request, routes))


def is_gone(writer: asyncio.StreamWriter) -> bool:
    """Whether the other end is closed: not only done with writing, and whether or not that was read."""
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), 0)  # POLLHUP and POLLERR are always told
    return bool(poll.poll(0))


def ends(writer: asyncio.StreamWriter) -> tuple[SocketAddress, SocketAddress] | None:
    """Where a TCP connection comes from and where it came in; None for a unix socket."""
    if writer.get_extra_info("socket").family == socket.AF_UNIX:
        return None
    client, server = (writer.get_extra_info(name) for name in ("peername", "sockname"))
    return SocketAddress.from_sockname(client), SocketAddress.from_sockname(server)


def asking_pid(writer: asyncio.StreamWriter) -> int:
    """As `Request.pid`."""
    sock = writer.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        return 0
    pid, _, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid)


def listening(host: str, port: int) -> socket.socket:
    """A listening socket; the host `::` takes IPv4 as well. Raises OSError."""
    # asyncio makes `::` IPv6 only, and the kubelet of an IPv4 cluster probes by IPv4.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")


async def dispatch(request: Request, routes: Routes) -> Response:
    """The answer of the handler for a request; every failure becomes an answer too."""
    handler = routes.get((request.method, request.path)) or routes.get(("*", request.path))
    if handler is None:
        known = any(path == request.path for _, path in routes)
        return text("method not allowed\n", 405) if known else text("not found\n", 404)
    try:
        return await handler(request)
    except BadRequest as error:
        return text(f"{error}\n", 400)
    except Exception as error:
        log.exception("admin: %s %s failed", request.method, request.path)
        return text(f"{type(error).__name__}: {error}\n", 500)


async def encoded(request: Request, response: Response) -> Response:
    """The answer, compressed if that is asked for and worth it. What could have been says so all the same (`vary`)."""
    response = replace(response, vary=(*response.vary, "accept-encoding"))
    if len(response.body) < compression.WORTH_BYTES:
        return response
    if not compression.is_taken(request.headers.get("accept-encoding", "")):
        return response
    # Off the loop: the metrics of a large mesh are many megabytes.
    body = await asyncio.to_thread(compression.compressed, response.body)
    return replace(response, body=body, content_encoding="gzip")


async def read_request(reader: asyncio.StreamReader) -> Request:
    """One HTTP/1.1 request (RFC 9112 3 and 5; only Content-Length bodies). Raises BadRequest."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head[:-4].split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest("not an HTTP/1.1 request")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest("a header line has no colon")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise BadRequest("the Content-Length cannot be used")
    body = await reader.readexactly(int(length))
    url = urlsplit(parts[1])
    return Request(parts[0], url.path, dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)


def render(response: Response) -> bytes:
    """The bytes of an answer; the connection ends behind it."""
    reason = HTTPStatus(response.status).phrase
    head = [
        f"HTTP/1.1 {response.status} {reason}",
        f"date: {formatdate(usegmt=True)}",
        f"content-type: {response.content_type}",
        f"content-length: {len(response.body)}",
        "connection: close",
    ]
    if response.content_encoding:
        head.append(f"content-encoding: {response.content_encoding}")
    if response.vary:
        head.append(f"vary: {', '.join(response.vary)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + response.body
