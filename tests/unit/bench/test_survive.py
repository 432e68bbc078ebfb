"""The bench of what lives on: clients see each byte that is wrong or missing, and the verdict names what was lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.bench import report
from tests.bench.survival import Holdings, Phase, Run, hand_over_of, table
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


def visited(longest_s: float = 0.1, **failed: int) -> dict[str, Any]:
    return {"a to b": {"visits": 50, "failed": failed, "p50_s": 0.1, "p99_s": 0.1, "longest_s": longest_s}}


def moved(took_s: float = 0.2, values_bytes: int = 2_000, failure: str = "") -> dict[str, Any]:
    return {
        "moved_s": took_s,
        "longest_pause_s": took_s / 10,
        "values_bytes": values_bytes,
        "blobs_bytes": 5_000_000,
        "failure": failure,
    }


def held(memory_mb: float = 100.0, descriptors: int = 50) -> dict[str, Holdings]:
    return {"node-a": Holdings(memory_mb, descriptors, 3)}


def phase(name: str = "upgrades", *rows: dict[str, Any], fresh: Any = None, **told: Any) -> Phase:
    made = Phase(name, living=lived(**told), fresh=fresh or visited())
    made.hand_overs = [hand_over_of("node-a", 1, rows or (moved(), moved()))]
    return made


def missed(
    upgraded: Phase, now: dict[str, Holdings] | None = None, killed: Phase | None = None, told_s: float = 1.0
) -> list[str]:
    run = Run(phase("quiet"), upgraded, killed or phase("killed"), told_s, (held(), now or held()))
    targets = [target for target in report.targets() if target.bench == "survive"]
    return report.misses(run.samples(), targets)


def test_a_run_in_which_everything_lives_on_misses_nothing() -> None:
    assert missed(phase()) == []


@pytest.mark.parametrize(
    ("fault", "metric"),
    [
        (lambda: missed(phase(lost=2, why={"reset": 2})), "survive_lost"),
        (lambda: missed(phase(fresh=visited(hear=1))), "survive_failed"),
        (lambda: missed(phase(longest_s=0.4)), "survive_slower"),
        (lambda: missed(phase(fresh=visited(0.4))), "survive_slower"),
        (lambda: missed(phase("upgrades", moved(0.6), moved(0.5))), "survive_hand_over"),
        (lambda: missed(phase("upgrades", moved(), moved(values_bytes=2_100))), "survive_state"),
        (lambda: missed(phase(), held(memory_mb=111.0)), "survive_memory"),
        (lambda: missed(phase(), held(descriptors=60)), "survive_descriptors"),
        (lambda: missed(phase(), killed=phase(fresh=visited(**{"connect: no": 1}))), "survive_killed_failed"),
        (lambda: missed(phase(), killed=phase(fresh=visited(3.6))), "survive_killed_longest"),
        (lambda: missed(phase(), told_s=3.6), "survive_killed_told"),
    ],
)
def test_what_falls_short_is_named(fault: Callable[[], list[str]], metric: str) -> None:
    lines = fault()
    assert len(lines) == 1 and lines[0].startswith(metric), lines


def test_what_was_open_when_all_is_killed_may_be_reset() -> None:
    assert missed(phase(), killed=phase(fresh=visited(**{"hear: reset": 3}), lost=10)) == []


def test_a_counter_that_goes_back_and_a_hand_over_that_fell_short_are_told() -> None:
    upgraded = phase("upgrades", moved(failure="late"))
    upgraded.went_back = ["x 2 -> 1"]
    (line,) = missed(upgraded)
    assert line.startswith("survive_back")
    told = table(upgraded)
    assert "x 2 -> 1" in told and "node-a fell short: late" in told
    assert "0.20 s at most (1 tunnels, 2000 bytes each beside 5.0 MB" in told


def test_parts_of_a_phase_add_up() -> None:
    whole = phase()
    whole.add(lived(alive=8, lost=2, words=7, longest_s=0.05))
    assert whole.living["a to b"]["words"] == 57 and whole.longest_word_s == 0.1
    assert whole.lost == 2 and whole.requests == 57 + 50
