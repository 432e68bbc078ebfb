"""How limits are written."""

from __future__ import annotations

import pytest

from agent.model.limits import EXAMPLE, LimitError, Limits, parse_limits


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        (EXAMPLE, Limits(100, 20, 10_000_000)),
        ("connections=0", Limits(connections=0)),
        (" bytes-per-second = 64Ki ", Limits(bytes_per_second=65536)),
        ("new-connections-per-second=2k,connections=3", Limits(3, 2000)),
    ],
)
def test_it_means_what_it_says(text: str, limits: Limits) -> None:
    assert parse_limits(text) == limits


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it wants NAME=NUMBER"),
        ("connections=1,", "it wants NAME=NUMBER"),
        ("connection=1", "'connection' is no limit: did you mean connections?"),
        ("newConnectionsPerSecond=3", "no limit: did you mean new-connections-per-second?"),
        ("bytesPerSecond=3k", "no limit: did you mean bytes-per-second?"),
        ("rate=1", "'rate' is no limit: want some of connections, new-connections-per-second"),
        ("connections: 100", "connections wants '=' before its number, not ':', e.g. connections=100"),
        ("connections", "connections has no number"),
        ("connections=1, connections=2", "connections stands there twice"),
        ("connections=1O", "'1O' is not a whole number"),
        ("connections=-1", "'-1' is not a whole number"),
        ("connections=1e3", "'1e3' is not a whole number"),
        ("connections=010", "'010' is not a whole number"),
        ("bytes-per-second=10MB", "'10MB' is not a whole number; it may end in one of k, M, G, Ki, Mi, Gi"),
        ("bytes-per-second=10K", "'10K' is not a whole number"),
        ("bytes-per-second=999", "999 is not from 1000 to 1000000000000"),
        ("new-connections-per-second=0", "0 is not from 1 to 1000000 (connections=0 lets nobody in)"),
        ("connections=100000001", "not from 0 to 10000000"),
        ("connections=\u0661", "is not a whole number"),
    ],
)
def test_what_means_nothing_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(LimitError) as refused:
        parse_limits(text)
    assert why in str(refused.value)


def test_all_of_its_faults_are_told_at_once() -> None:
    with pytest.raises(LimitError) as refused:
        parse_limits(
            "connections=ten, bytes=5, newConnectionsPerSecond=3, bytes-per-second=10, connections=2"
        )
    for said in (
        "connections: 'ten' is not a whole number",
        "'bytes' is no limit: want some of",
        "did you mean new-connections-per-second?",
        "bytes-per-second: 10 is not from 1000",
        "connections stands there twice",
    ):
        assert said in str(refused.value)
