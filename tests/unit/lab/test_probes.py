"""The lab's own traffic programs: they must notice what they are there to notice."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agent.lab import probes


@contextmanager
def served(handler: probes.Handler) -> Iterator[int]:
    """One connection, served by `handler`; the port."""

    def run() -> None:
        connection, peer = listener.accept()
        with connection:
            handler(connection, f"{peer[0]}:{peer[1]}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(("sent", "received"), [(0, 0), (1, 0), (0, 1), (200_001, 70_000), (65_536, 131_072)])
def test_exchange_agrees_on_both_digests(sent: int, received: int) -> None:
    with served(probes.bulk) as port:
        done = probes.exchange("127.0.0.1", port, 5, sent, received)
    assert (done["sent"], done["received"]) == (sent, received)


def flipped(connection: socket.socket, _: str) -> None:
    """A bulk server with one wrong byte in its answer."""
    count = int.from_bytes(connection.recv(8), "big")
    body = bytearray(b"".join(probes.pattern(count, 2)))
    body[count // 2] ^= 1
    digest = probes.hashlib.sha256(b"".join(probes.receive_all(connection))).hexdigest()
    connection.sendall(bytes(body) + digest.encode())


def deaf(connection: socket.socket, _: str) -> None:
    """A bulk server that lost one byte of what the client sent."""
    count = int.from_bytes(connection.recv(8), "big")
    heard = b"".join(probes.receive_all(connection))[:-1]
    connection.sendall(b"".join(probes.pattern(count, 2)) + probes.hashlib.sha256(heard).hexdigest().encode())


def cut(connection: socket.socket, _: str) -> None:
    """A bulk server whose answer ends early."""
    count = int.from_bytes(connection.recv(8), "big")
    list(probes.receive_all(connection))
    connection.sendall(b"".join(probes.pattern(count - 1, 2)))


@pytest.mark.parametrize(
    ("server", "message"), [(flipped, "from the server"), (deaf, "to the server"), (cut, "from the")]
)
def test_exchange_notices_damage(server: Callable[[socket.socket, str], None], message: str) -> None:
    with served(server) as port, pytest.raises(ConnectionError, match=message):
        probes.exchange("127.0.0.1", port, 5, 1000, 1000)


def test_pattern_has_no_period() -> None:
    whole = b"".join(probes.pattern(200_000, 1))
    assert len(whole) == 200_000
    assert whole[:65_536] != whole[65_536:131_072]
    assert whole != b"".join(probes.pattern(200_000, 2))


def answer_twice(connection: socket.socket, _: str) -> None:
    with connection.makefile("rwb") as stream:
        for _ in range(2):
            stream.write(stream.readline())
            stream.flush()


def test_hold_tells_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with served(answer_twice) as port:
        assert probes.main(["hold", "127.0.0.1", str(port), "--interval", "0"]) == 0
    ready, result = capsys.readouterr().out.splitlines()
    assert ready == "ready"
    assert json.loads(result)["answered"] == 2


def test_request_refuses_somebody_elses_answer() -> None:
    def wrong(connection: socket.socket, _: str) -> None:
        connection.recv(100)
        connection.sendall(b'{"client": "x", "text": "other"}\n')

    with served(wrong) as port, pytest.raises(ConnectionError, match="not the request's"):
        probes.request("127.0.0.1", port, 5, "mine")


def test_the_marker_server_tells_the_address_it_sees() -> None:
    with served(probes.marker) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        own = connection.getsockname()
        connection.sendall(b"hello\n")
        assert json.loads(connection.recv(1000)) == {
            "client": f"{own[0]}:{own[1]}",
            "server": f"127.0.0.1:{port}",
            "text": "hello",
        }


def test_a_failed_client_prints_its_reason_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert probes.main(["check", "127.0.0.1", str(port)]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "ConnectionRefusedError"
