"""The bench of what lives on: clients see each byte that is wrong or missing, and the verdict names what was lost."""

from __future__ import annotations

import argparse
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.bench.survive import Holdings, Phase, add, misses
from tests.bench.survivors import PATTERN_BYTES, Crowd, Echo, Said

Change = Callable[[bytes, int], bytes | None]
"""What an echo makes of some bytes, after so many; None: it ends."""


@contextmanager
def echo(change: Change) -> Iterator[int]:
    """The port of an echo for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                seen = 0
                while data := connection.recv(1 << 16):
                    answer = change(data, seen)
                    if answer is None:
                        return
                    connection.sendall(answer)
                    seen += len(data)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
    thread.join(10)


def turned(crowd: Crowd, done: Callable[[], bool]) -> Crowd:
    deadline_s = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline_s
        crowd.turn()
    return crowd


def test_the_text_of_a_connection_goes_on_where_it_began_anew() -> None:
    said = Said(7)
    whole = said.part(0, PATTERN_BYTES)
    assert said.part(PATTERN_BYTES - 3, 10) == whole[-3:] + whole[:7]
    assert said.part(5, 100) != said.part(6, 100) and Said(8).part(0, 100) != whole[:100]


def test_bulk_beyond_the_length_of_the_text_is_right_byte_for_byte() -> None:
    with echo(lambda data, seen: data) as port:
        crowd = Crowd(("127.0.0.1", port), 0, 1)
        echoed = 0

        def is_enough() -> bool:
            nonlocal echoed
            told: Any = crowd.told()
            echoed += told["bulk_bytes"]
            assert told["lost"] == 0
            return echoed > 4 * PATTERN_BYTES

        turned(crowd, is_enough)
        crowd.close()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data, seen: data[:-1] + b"!", "calm: wrong bytes from 0 on"),
        (lambda data, seen: data if not seen else data[1:] + b"x", "calm: wrong bytes from 128 on"),
        (lambda data, seen: None if seen else data, "calm: it ended after 128 bytes, of 256 sent"),
    ],
)
def test_a_byte_that_is_wrong_or_missing_is_a_connection_lost(change: Change, why: str) -> None:
    with echo(change) as port:
        crowd = Crowd(("127.0.0.1", port), 1, 0)
        turned(crowd, lambda: bool(crowd.lost))
        assert crowd.lost == {why: 1}
        assert crowd.told()["alive"] == 0


def test_the_echo_gives_back_what_nobody_took_at_first() -> None:
    server = Echo(0)
    threading.Thread(target=server.run, daemon=True).start()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        sent = Said(1).part(0, 60_000) * 40
        writer = threading.Thread(target=client.sendall, args=(sent,))
        writer.start()
        heard = b""
        while len(heard) < len(sent):
            heard += client.recv(1 << 16)
        writer.join()
    assert heard == sent


def lived(**told: Any) -> dict[str, Any]:
    row = {"alive": 10, "lost": 0, "why": {}, "words": 50, "p50_s": 0.01, "p99_s": 0.02, "longest_s": 0.1}
    return {"a to b": row | {"bulk_bytes": 5} | told}


def visited(**failed: int) -> dict[str, Any]:
    return {"a to b": {"visits": 50, "failed": failed, "p50_s": 0.1, "p99_s": 0.1, "longest_s": 0.1}}


OPTIONS = argparse.Namespace(requests=100)
HELD = [{"node-a": Holdings(100.0, 50, 3)}, {"node-a": Holdings(101.0, 52, 3)}]


def test_a_run_in_which_everything_lives_on_misses_nothing() -> None:
    phases = [Phase(name, living=lived(), fresh=visited()) for name in ("no upgrade", "upgrades", "killed")]
    assert misses(phases, HELD, 1.0, OPTIONS) == []


@pytest.mark.parametrize(
    ("upgraded", "held", "killed_s", "named"),
    [
        (
            Phase("upgrades", living=lived(lost=2, why={"reset": 2}), fresh=visited()),
            HELD,
            1.0,
            "2 of 12 connections",
        ),
        (Phase("upgrades", living=lived(), fresh=visited(hear=1)), HELD, 1.0, "1 new connections failed"),
        (Phase("upgrades", living=lived(longest_s=0.4), fresh=visited()), HELD, 1.0, "400 ms, target 350"),
        (Phase("upgrades", living=lived(words=10), fresh=visited()), HELD, 1.0, "60 requests, target 100"),
        (Phase("upgrades", living=lived(), fresh=visited(), went_back=["x 2 -> 1"]), HELD, 1.0, "x 2 -> 1"),
        (
            Phase("upgrades", living=lived(), fresh=visited()),
            [HELD[0], {"node-a": Holdings(111.0, 50, 3)}],
            1.0,
            "MB",
        ),
        (
            Phase("upgrades", living=lived(), fresh=visited()),
            [HELD[0], {"node-a": Holdings(99.0, 60, 3)}],
            1.0,
            "60 d",
        ),
        (Phase("upgrades", living=lived(), fresh=visited()), HELD, 3.6, "told after 3.6 s"),
    ],
)
def test_what_falls_short_is_named(upgraded: Phase, held: Any, killed_s: float, named: str) -> None:
    phases = [Phase("no upgrade", living=lived(), fresh=visited()), upgraded, Phase("killed", living=lived())]
    missed = misses(phases, held, killed_s, OPTIONS)
    assert len(missed) == 1 and named in missed[0], missed


def test_parts_of_a_phase_add_up() -> None:
    whole = lived()
    add(whole, lived(alive=8, lost=2, words=7, longest_s=0.05))
    assert whole["a to b"]["words"] == 57 and whole["a to b"]["longest_s"] == 0.1
    assert (whole["a to b"]["alive"], whole["a to b"]["lost"]) == (8, 2)
