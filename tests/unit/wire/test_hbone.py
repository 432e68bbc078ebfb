"""What is a legal HBONE request, what is answered with a status, and what resets the stream."""

from __future__ import annotations

import pytest

from agent.wire.h2_frames import ErrorCode, H2StreamError
from agent.wire.hbone import BadConnect, ConnectHead, connect_head, parse_connect, parse_status


def fields(**pseudo: str) -> list[tuple[str, str]]:
    return [
        *((f":{name}", value) for name, value in pseudo.items()),
        ("baggage", "a=b"),
        ("x", "1"),
        ("x", "2"),
    ]


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("10.1.2.3:8080", "10.1.2.3", 8080),
        ("[fd00::7]:80", "fd00::7", 80),
        ("reviews.default.svc.cluster.local:9080", "reviews.default.svc.cluster.local", 9080),
        ("a:65535", "a", 65535),
    ],
)
def test_legal_authorities(authority: str, host: str, port: int) -> None:
    head = parse_connect(fields(method="CONNECT", authority=authority))
    assert head == ConnectHead(authority, host, port, (("baggage", "a=b"), ("x", "1"), ("x", "2")))
    assert connect_head(authority) == ConnectHead(authority, host, port)


def test_headers_are_found_by_name() -> None:
    head = parse_connect(fields(method="CONNECT", authority="a:1"))
    assert (head.header("baggage"), head.header("none"), head.values("x")) == ("a=b", None, ("1", "2"))


@pytest.mark.parametrize(
    "authority",
    [
        "",
        "10.1.2.3",
        "10.1.2.3:",
        "10.1.2.3:0",
        "10.1.2.3:65536",
        "10.1.2.3:80x",
        # More digits than Python reads as a number.
        "10.1.2.3:" + "1" * 5000,
        "10.1.2.3:-1",
        "10.1.2.3:١",
        "fd00::7:80",
        "[fd00::7]",
        "[fd00::7%eth0]:80",
        "[fd00::zz]:80",
        "user@host:80",
        "a b:80",
        "host/path:80",
        ":80",
        "-.x" * 100 + ":80",
    ],
)
def test_an_authority_without_host_or_port_is_a_400(authority: str) -> None:
    with pytest.raises(BadConnect) as caught:
        parse_connect(fields(method="CONNECT", authority=authority))
    assert caught.value.status == 400
    with pytest.raises(BadConnect):
        connect_head(authority)


def test_a_connect_without_authority_is_a_400() -> None:
    with pytest.raises(BadConnect):
        parse_connect(fields(method="CONNECT"))


def test_another_method_is_a_400() -> None:
    with pytest.raises(BadConnect, match="'GET'") as caught:
        parse_connect(fields(method="GET", scheme="https", path="/", authority="a:1"))
    assert caught.value.status == 400


@pytest.mark.parametrize("extra", ["scheme", "path", "protocol", "status"])
def test_a_connect_with_more_pseudo_fields_resets_the_stream(extra: str) -> None:
    with pytest.raises(H2StreamError, match=extra) as caught:
        parse_connect(fields(method="CONNECT", authority="a:1", **{extra: "x"}))
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


def test_a_request_without_method_resets_the_stream() -> None:
    with pytest.raises(H2StreamError):
        parse_connect(fields(authority="a:1"))


def test_status() -> None:
    assert parse_status([(":status", "401")]) == 401
    for bad in ([], [(":status", "20")], [(":status", "٢٠٠")], [("status", "200")]):
        with pytest.raises(H2StreamError):
            parse_status(bad)
