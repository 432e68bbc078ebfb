"""Who gets a compressed answer."""

from __future__ import annotations

import gzip

import pytest

from agent.admin import compression


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("deflate, GZIP;q=1.0", True),
        ("x-gzip", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip; q=0.000", False),
        ("gzip ; q=0.5", True),
        ("gzip;q=nonsense", False),
        ("gzip;q=nan", False),
        ("gzipped", False),
        ("identity", False),
        ("br, ,;q=1,", False),
    ],
)
def test_gzip_is_for_those_who_take_it(accept_encoding: str, expected: bool) -> None:
    assert compression.is_taken(accept_encoding) is expected


def test_the_same_body_gives_the_same_bytes() -> None:
    body = b"ztun_agent_ready 1\n" * 1000
    assert compression.compressed(body) == compression.compressed(body)
    assert gzip.decompress(compression.compressed(body)) == body
