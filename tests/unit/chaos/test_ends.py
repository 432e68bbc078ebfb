"""The applications of chaos, against ends that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.ends import WORDS, Served, visited
from tests.chaos.losses import Loss, loss_of


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                heard = b""
                while data := connection.recv(4096):
                    heard += data
                connection.sendall(answer(heard))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "loss"),
    [
        (lambda heard: heard[:-1], Loss.ENDED),
        (lambda heard: b"", Loss.ENDED),
        (lambda heard: heard[:5] + b"X" + heard[6:], Loss.WRONG),
        (lambda heard: heard + b"more", Loss.WRONG),
    ],
    ids=["short", "nothing", "changed", "more"],
)
def test_a_visit_tells_what_was_wrong(answer: Callable[[bytes], bytes], loss: Loss) -> None:
    with answering(answer) as port:
        assert loss_of(visited("127.0.0.1", port, 10)) is loss


def test_the_server_answers_and_counts_what_comes_from_whom_it_must_not() -> None:
    served = Served(0, frozenset({"127.0.0.2"}))
    threading.Thread(target=served.run, daemon=True).start()
    assert visited("127.0.0.1", served.port, 10) == "" and not served.bytes_denied
    with socket.create_connection(("127.0.0.1", served.port), 10, ("127.0.0.2", 0)) as denied:
        denied.sendall(WORDS)
        denied.shutdown(socket.SHUT_WR)
        while denied.recv(4096):
            pass
    assert served.bytes_denied == {"127.0.0.2": len(WORDS)}
