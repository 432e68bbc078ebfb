"""Small programs that make and receive traffic in a pod's namespace: `python -m agent.lab.probes KIND ...`.

Servers listen on both IP versions and say `ready PORT` on their first line of output. Clients print one JSON
object and exit 0 when the connection did what it should, 1 when not. The lab's applications: they know nothing
of the mesh.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

Handler = Callable[[socket.socket, str], None]
CHUNK = 64 * 1024
BANNER = b"220 lab.example ready\r\n"
DIGEST_BYTES = 64


def say(text: str, out: TextIO | None = None) -> None:
    """One line of output, at once: somebody waits for it."""
    stream = out or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def pattern(count: int, seed: int) -> Iterator[bytes]:
    """`count` bytes that no shift or repetition maps onto themselves; the same for the same seed."""
    block = hashlib.shake_256(b"lab%d" % seed).digest(CHUNK)
    number = 0
    while count > 0:
        # A counter in every block: a lost, doubled or swapped block changes the digest.
        piece = (number.to_bytes(8, "big") + block[8:])[:count]
        yield piece
        count -= len(piece)
        number += 1


def receive_all(connection: socket.socket) -> Iterator[bytes]:
    while chunk := connection.recv(CHUNK):
        yield chunk


def send_pattern(connection: socket.socket, count: int, seed: int) -> str:
    """Sends the pattern; its SHA-256 in hex."""
    digest = hashlib.sha256()
    for piece in pattern(count, seed):
        connection.sendall(piece)
        digest.update(piece)
    return digest.hexdigest()


def echo(connection: socket.socket, _: str) -> None:
    """Sends back what arrives, until the client has ended its half."""
    for chunk in receive_all(connection):
        connection.sendall(chunk)


def marker(connection: socket.socket, peer: str) -> None:
    """Answers each line with a JSON line: the address the server sees, and the client's text."""
    with connection.makefile("rwb") as stream:
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip("\n")
            answer = {"client": peer, "server": _address(connection.getsockname()), "text": text}
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()


def banner(connection: socket.socket, _: str) -> None:
    """Speaks first, as SMTP and MySQL do, then echoes."""
    connection.sendall(BANNER)
    echo(connection, _)


def bulk(connection: socket.socket, _: str) -> None:
    """Reads a count (8 bytes), sends that many bytes while it reads, then the digest of what it read."""
    wanted = int.from_bytes(_exactly(connection, 8), "big")
    sender = threading.Thread(target=send_pattern, args=(connection, wanted, 2))
    sender.start()
    digest = hashlib.sha256()
    for chunk in receive_all(connection):
        digest.update(chunk)
    sender.join()
    connection.sendall(digest.hexdigest().encode())


SERVERS: dict[str, Handler] = {"echo": echo, "marker": marker, "banner": banner, "bulk": bulk}


def serve(handler: Handler, port: int) -> None:
    """Serves for ever, a thread per connection, on IPv4 and IPv6."""
    with socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
    ) as listener:
        say(f"ready {listener.getsockname()[1]}")
        while True:
            connection, peer = listener.accept()
            threading.Thread(
                target=_serve_one, args=(handler, connection, _address(peer)), daemon=True
            ).start()


def _serve_one(handler: Handler, connection: socket.socket, peer: str) -> None:
    with connection:
        try:
            handler(connection, peer)
        except OSError as error:
            # A client may reset at any time (policy tests do); the next one is served.
            say(f"{peer}: {error}", sys.stderr)


def check(host: str, port: int, timeout_s: float) -> dict[str, Any]:
    """Does a connection come up? Nothing is sent."""
    with socket.create_connection((host, port), timeout_s) as connection:
        return {"local": _address(connection.getsockname()), "remote": _address(connection.getpeername())}


def request(host: str, port: int, timeout_s: float, text: str, count: int = 1) -> dict[str, Any]:
    """`count` lines to the marker server over one connection; its last answer."""
    answer: dict[str, Any] = {}
    with (
        socket.create_connection((host, port), timeout_s) as connection,
        connection.makefile("rwb") as stream,
    ):
        for _ in range(count):
            stream.write(text.encode() + b"\n")
            stream.flush()
            line = stream.readline()
            if not line:
                raise ConnectionError("the connection ended before the answer")
            answer = json.loads(line)
    if answer.get("text") != text:
        raise ConnectionError(f"the answer is not the request's: {answer}")
    return answer


def hold(host: str, port: int, timeout_s: float, text: str, interval_s: float) -> dict[str, Any]:
    """Requests over one connection until it ends; how many were answered. `ready` after the first one."""
    answered = 0
    with (
        socket.create_connection((host, port), timeout_s) as connection,
        connection.makefile("rwb") as stream,
    ):
        try:
            while True:
                stream.write(text.encode() + b"\n")
                stream.flush()
                if not stream.readline():
                    return {"answered": answered, "end": "closed"}
                answered += 1
                if answered == 1:
                    say("ready")
                time.sleep(interval_s)
        except OSError as error:
            return {"answered": answered, "end": str(error)}


def first_words(host: str, port: int, timeout_s: float) -> dict[str, Any]:
    """What a server that speaks first says before it is spoken to."""
    with socket.create_connection((host, port), timeout_s) as connection:
        return {"banner": _exactly(connection, len(BANNER)).decode()}


def exchange(host: str, port: int, timeout_s: float, sent: int, received: int) -> dict[str, Any]:
    """Sends and receives so many bytes at once, half-closes, and compares both digests."""
    with socket.create_connection((host, port), timeout_s) as connection:
        connection.sendall(received.to_bytes(8, "big"))
        mine: list[str] = []

        def send() -> None:
            mine.append(send_pattern(connection, sent, 1))
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        body, trailer = _body_and_trailer(connection, received)
        sender.join()
    expected = hashlib.sha256(b"".join(pattern(received, 2))).hexdigest() if received else ""
    if received and body != expected:
        raise ConnectionError(f"{received} bytes from the server: digest differs")
    if mine != [trailer]:
        raise ConnectionError(f"{sent} bytes to the server: it saw digest {trailer!r}, sent were {mine}")
    return {"sent": sent, "received": received, "digest": trailer}


def _body_and_trailer(connection: socket.socket, count: int) -> tuple[str, str]:
    """Digest of the first `count` bytes, and the digest text that follows them up to the end."""
    digest, left, trailer = hashlib.sha256(), count, b""
    for chunk in receive_all(connection):
        body, rest = chunk[:left], chunk[left:]
        digest.update(body)
        left -= len(body)
        trailer += rest
        if len(trailer) > DIGEST_BYTES:
            raise ConnectionError("the server sent more than it was asked for")
    return digest.hexdigest(), trailer.decode()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise ConnectionError(f"the connection ended after {len(data)} of {count} bytes")
        data += chunk
    return data


def _address(name: tuple[Any, ...]) -> str:
    host = name[0].removeprefix("::ffff:")
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.lab.probes", description="traffic for the lab")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, handler in SERVERS.items():
        server = kinds.add_parser(name, help=handler.__doc__)
        server.add_argument("--port", type=int, default=0)
    for name, extra in CLIENT_FLAGS.items():
        client = kinds.add_parser(name)
        client.add_argument("host")
        client.add_argument("port", type=int)
        for flag, default in ({"--timeout": 5.0} | extra).items():
            dest = SECONDS.get(flag, flag.removeprefix("--"))
            client.add_argument(flag, dest=dest, type=type(default), default=default)
    return parser


CLIENT_FLAGS: dict[str, dict[str, Any]] = {
    "check": {},
    "request": {"--text": "hello", "--count": 1},
    "hold": {"--text": "hello", "--interval": 0.05},
    "first_words": {},
    "exchange": {"--sent": 1 << 20, "--received": 1 << 20},
}
SECONDS = {"--timeout": "timeout_s", "--interval": "interval_s"}
CLIENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "check": check,
    "request": request,
    "hold": hold,
    "first_words": first_words,
    "exchange": exchange,
}


def main(argv: list[str] | None = None) -> int:
    arguments = vars(_parser().parse_args(argv))
    kind = arguments.pop("kind")
    if kind in SERVERS:
        serve(SERVERS[kind], arguments["port"])
        return 0
    try:
        say(json.dumps(CLIENTS[kind](**arguments)))
    except (OSError, ValueError) as error:
        say(json.dumps({"error": str(error), "kind": type(error).__name__}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
