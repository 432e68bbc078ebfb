"""Pairs that talk again: what is late, and a run that measured another thing than pairs."""

from pathlib import Path

from tests.bench.envoy import write_credentials
from tests.bench.pairs import LIMIT_S, Floor, Result, floor, misses, table


def result(since_ready_s: float, hbone: int, in_vain: int = 0) -> Result:
    failures = ({"timed_out": in_vain}, {"timed_out": in_vain - 1} if in_vain else {})
    return Result(100, since_ready_s, 1.0, 3.0, 1.0, 2.0, 3.0, 1.0, hbone, *failures, Floor(1000.0, 2000.0))


def test_the_last_may_take_so_long_and_each_pair_needs_a_connection_of_its_own() -> None:
    assert misses(result(LIMIT_S, 100)) == []
    late, shared = misses(result(LIMIT_S + 0.1, 99))
    assert "8.1 s" in late and "99 HBONE connections for 100 pairs" in shared
    assert misses(result(1.0, 100, in_vain=5)) == []
    assert "1.06 handshakes" in misses(result(1.0, 100, in_vain=6))[0], (
        "as many as the end that counted more says"
    )
    assert "0.10 s, 0.20 s" in table(result(1.0, 100)), "OpenSSL's part is that of as many handshakes"


def test_the_floor_is_a_handshake_of_both_ends(tmp_path: Path) -> None:
    write_credentials(tmp_path / "leaf", tmp_path / "state", "spiffe://cluster.local/ns/bench/sa/floor")
    both = floor(2, tmp_path / "leaf")
    assert both.client_us > 0 and both.server_us > 0
