"""The bench's own traffic over loopback: each client against the server, and results as metrics."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.bench import beside, load
from tests.bench.rounds import WORKLOADS, Workload, metrics
from tests.bench.systems import HERE

LOAD = [sys.executable, "-S", "-E", str(HERE / "load.py")]
BESIDE = [sys.executable, "-S", "-E", "-m", "tests.bench.beside"]
LENGTH_S = "0.05"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server of the bench on a port of its own."""
    with subprocess.Popen([*LOAD, "serve", "0", "-1"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        word, number = server.stdout.readline().split()
        assert word == "ready"
        yield int(number)
        server.kill()


def run(kind: str, port: int, count: int | str) -> dict[str, float]:
    command = [
        *(LOAD if kind in load.CLIENTS else BESIDE),
        kind,
        "127.0.0.1",
        str(port),
        str(count),
        "0.01",
        LENGTH_S,
        "-1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    begin, result = done.stdout.splitlines()
    assert begin == "begin"
    return dict(json.loads(result))


@pytest.mark.parametrize("kind", ["upload", "download"])
@pytest.mark.parametrize("count", [1, 3])
def test_bulk_counts_bytes_in_the_measured_time(port: int, kind: str, count: int) -> None:
    result = run(kind, port, count)
    assert result["bytes"] > 100_000
    assert result["seconds"] >= float(LENGTH_S)


@pytest.mark.parametrize("count", [1, 16])
def test_exchange_counts_whole_round_trips_and_times_them(port: int, count: int) -> None:
    result = run("exchange", port, count)
    assert result["count"] >= count
    assert 0 < result["p50_us"] <= result["p99_us"]


def test_stalled_compares_a_connection_with_itself_beside_others_that_nobody_reads(port: int) -> None:
    result = run("stalled", port, 5)
    assert 0 < result["p99_us"] <= 2e6 and result["quiet_p99_us"] > 0
    assert metrics(Workload("stalled_5", "stalled", 5), {"p99_us": 6.0, "quiet_p99_us": 4.0}, 1.0) == {
        "stalled_5": 1.5
    }


def test_interactive_ones_are_compared_with_themselves_beside_a_bulk_download(port: int) -> None:
    result = run("interactive", port, 8)
    assert result["count"] > 0 and result["seconds"] >= float(LENGTH_S)
    assert result["p99_us"] > 0 and result["quiet_p99_us"] > 0


def test_paced_ones_ask_as_often_as_they_are_told_to(port: int) -> None:
    result = run("paced", port, "8@200")
    assert 0 < result["count"] <= 200 * result["seconds"] + 2 * 8
    assert 0 < result["p50_us"] <= result["p99_us"]


def test_of_many_that_stay_open_the_last_are_compared_with_the_first(port: int) -> None:
    result = run("many", port, 350)
    assert result["count"] == 350 and result["first_us"] > 0
    assert metrics(Workload("many_150", "many", 150), {"first_us": 4.0, "last_us": 6.0}, 1.0) == {
        "many_150": 1.5
    }


def test_stalled_measures_nothing_while_proxies_still_fill() -> None:
    """Readers' own sockets are full at once; what is between them and the server is not."""
    asking, server = socket.socketpair()
    asked = []

    def serve() -> None:
        while server.recv(1):
            asked.append(min(len(asked), 20))
            server.sendall(load.GIVEN.pack(asked[-1]))

    thread = threading.Thread(target=serve)
    thread.start()
    with server:
        with asking:
            beside._wait_until_still(asking)
        thread.join()
    assert asked[-2:] == [20, 20]


def test_an_answer_that_never_comes_beside_stalled_connections_is_a_figure_too() -> None:
    """A server that serves the first connection, tells once what it has given, and then serves no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            first, _ = listener.accept()
            with first, contextlib.suppress(ConnectionResetError):
                while piece := first.recv(4096):
                    first.sendall(piece)
            asking, _ = listener.accept()
            with asking:
                asking.sendall(bytes(load.GIVEN.size))
                while asking.recv(1):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        assert run("stalled", listener.getsockname()[1], 3)["p99_us"] == 2e6


def test_connect_counts_connections_that_were_served(port: int) -> None:
    result = run("connect", port, 4)
    assert result["count"] > 0
    assert result["failed"] == 0


def test_refused_times_what_comes_to_nothing(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    result = run("refused", closed - 1, 1)
    assert result["count"] > 0 and 0 < result["p50_us"] <= result["p99_us"]
    assert metrics(Workload("refused", "refused"), result, 1.0) == {
        "p50_refused": result["p50_us"],
        "p99_refused": result["p99_us"],
    }


def test_connect_counts_refused_ones_as_failed() -> None:
    with subprocess.Popen([*LOAD, "serve", "0", "-1"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        closed = int(server.stdout.readline().split()[1])
        server.kill()
    result = run("connect", closed, 4)
    assert result["count"] == 0
    assert result["failed"] > 0


def test_results_become_rates_and_costs_per_unit() -> None:
    bulk = metrics(Workload("upload_8", "upload", 8), {"bytes": 4e9, "seconds": 2.0}, 6.0)
    assert bulk == {"upload_8": 2.0, "cpu_upload_8": 1.5}
    result = {"count": 1000, "seconds": 2.0, "p50_us": 3.0, "p99_us": 9.0}
    exchange = metrics(Workload("exchange_64", "exchange", 64), result, 0.05)
    assert exchange == {"exchange_64": 500.0, "cpu_exchange_64": 50.0, "p50_64": 3.0, "p99_64": 9.0}
    direct = metrics(Workload("connect", "connect", 32), {"count": 10, "seconds": 1.0}, None)
    assert direct == {"connect": 10.0}


def test_every_workload_has_a_name_of_its_own() -> None:
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)
