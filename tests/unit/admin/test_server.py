"""The admin server over real sockets: right answers, clear refusals, and no harm from bad clients."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from agent.admin.server import BadRequest, HttpServer, Request, Response, as_json, text


async def hello(request: Request) -> Response:
    return as_json({"path": request.path, "query": dict(request.query), "body": request.body.decode()})


async def broken(request: Request) -> Response:
    raise RuntimeError("a defect")


async def long(request: Request) -> Response:
    return Response(b"0123456789" * 1000, vary=("accept",))


async def refusing(request: Request) -> Response:
    raise BadRequest("namespace is missing")


ROUTES = {
    ("GET", "/hello"): hello,
    ("POST", "/hello"): hello,
    ("*", "/broken"): broken,
    ("GET", "/long"): long,
    ("POST", "/no"): refusing,
}


def ask(tmp_path: Path, raw: bytes) -> tuple[int, str]:
    head, _, body = answered(tmp_path, raw).partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body.decode()


def answered(tmp_path: Path, raw: bytes) -> bytes:
    async def run() -> bytes:
        server = HttpServer()
        await server.serve_unix(tmp_path / "s", ROUTES)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(raw)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        await server.close()
        return answer

    return asyncio.run(run())


def split(answer: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:]), body


def test_an_answer_is_compressed_for_those_who_take_it(tmp_path: Path) -> None:
    plain, whole = split(answered(tmp_path, b"GET /long HTTP/1.1\r\n\r\n"))
    assert whole == b"0123456789" * 1000 and "content-encoding" not in plain
    packed, body = split(answered(tmp_path, b"GET /long HTTP/1.1\r\nAccept-Encoding: br, gzip\r\n\r\n"))
    assert packed["content-encoding"] == "gzip" and int(packed["content-length"]) == len(body) < len(whole)
    assert gzip.decompress(body) == whole
    assert plain["vary"] == packed["vary"] == "accept, accept-encoding"


def test_a_short_answer_is_not_compressed(tmp_path: Path) -> None:
    headers, body = split(answered(tmp_path, b"GET /hello HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n"))
    assert "content-encoding" not in headers and headers["vary"] == "accept-encoding"
    assert json.loads(body)["path"] == "/hello"


@pytest.mark.parametrize(
    ("raw", "status", "says"),
    [
        (b"GET /hello?a=1&b= HTTP/1.1\r\nHost: x\r\n\r\n", 200, '"b": ""'),
        (b"POST /hello HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 200, '"body": "abc"'),
        (b"DELETE /hello HTTP/1.1\r\n\r\n", 405, "not allowed"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404, "not found"),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500, "RuntimeError: a defect"),
        (b"POST /no HTTP/1.1\r\n\r\n", 400, "namespace is missing"),
        (b"nonsense\r\n\r\n", 400, "not an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nno colon here\r\n\r\n", 400, "no colon"),
        (b"POST /hello HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 400, "Content-Length"),
        (b"GET /hello HTTP/1.1\r\nX: " + b"x" * 20000, 408, "too long"),
        (b"GET /hel", 0, ""),
    ],
)
def test_answers(tmp_path: Path, raw: bytes, status: int, says: str) -> None:
    got, body = ask(tmp_path, raw)
    assert got == status
    assert says in body


def test_a_taken_port_is_named() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(OSError, match=address):
                await HttpServer().serve_tcp(address, ROUTES)

    asyncio.run(run())


def test_plain_text_is_utf8() -> None:
    assert text("ü").body == "ü".encode()


@pytest.mark.parametrize("way", ["gone", "done with writing"])
def test_what_somebody_asked_who_is_gone_is_not_carried_out(tmp_path: Path, way: str) -> None:
    """A process that stood still finds requests in its queue whose commands have said that nobody answers."""
    asked: list[str] = []

    async def change(request: Request) -> Response:
        assert request.pid == os.getpid(), "who takes this agent's place is known by it"
        asked.append(request.path)
        return text("")

    async def run() -> None:
        server = HttpServer()
        await server.serve_unix(tmp_path / "s", {("POST", "/change"): change, ("GET", "/look"): change})
        client = socket.socket(socket.AF_UNIX)
        # Nothing runs on the loop in between: as if it had stood still.
        client.connect(str(tmp_path / "s"))
        client.sendall(b"POST /change HTTP/1.1\r\n\r\n")
        if way == "gone":
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET /look HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")  # served after the one before
        writer.close()
        client.close()
        await server.close()

    asyncio.run(run())
    assert asked == (["/look"] if way == "gone" else ["/change", "/look"])
