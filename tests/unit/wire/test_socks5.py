"""What SOCKS5 clients ask for, and what those are told that ask otherwise."""

from __future__ import annotations

import pytest

from agent.model.address import parse_ip
from agent.wire.socks5 import Asked, Conversation, NotServed, Reply, reply

GREETING = b"\x05\x01\x00"
TO_V4 = b"\x05\x01\x00\x01\x0a\x00\x00\x07\x1f\x90"


def spoken(*parts: bytes) -> tuple[bytes, Conversation]:
    """What is answered, and the conversation after these bytes, read as they are wanted."""
    conversation, answers, data = Conversation(), b"", b"".join(parts)
    while data and conversation.wanted:
        read, data = data[: conversation.wanted], data[conversation.wanted :]
        answers += conversation.receive(read)
    assert not data, "more than the request was read"
    return answers, conversation


def named(name: bytes, port: int = 80) -> bytes:
    return b"\x05\x01\x00\x03" + bytes((len(name),)) + name + port.to_bytes(2, "big")


@pytest.mark.parametrize(
    "request_, asked",
    [
        (TO_V4, Asked(parse_ip("10.0.0.7"), "", 8080)),
        (
            b"\x05\x01\x00\x04" + parse_ip("fd00::7").packed + b"\x00\x50",
            Asked(parse_ip("fd00::7"), "", 80),
        ),
        (
            b"\x05\x01\x00\x04" + bytes(10) + b"\xff\xff\x0a\x00\x00\x07\x00\x50",
            Asked(parse_ip("10.0.0.7"), "", 80),
        ),
        (named(b"Server.demo"), Asked(None, "Server.demo", 80)),
        (named(b"10.0.0.7"), Asked(parse_ip("10.0.0.7"), "", 80)),
        (named(b"x" * 255), Asked(None, "x" * 255, 80)),
    ],
    ids=["v4", "v6", "mapped", "name", "address-as-name", "longest"],
)
def test_what_is_asked_for(request_: bytes, asked: Asked) -> None:
    answers, conversation = spoken(GREETING, request_)
    assert (answers, conversation.asked, conversation.wanted) == (b"\x05\x00", asked, 0)


def test_no_more_is_read_than_the_request() -> None:
    conversation = Conversation()
    with pytest.raises(ValueError, match="wants"):
        conversation.receive(GREETING)
    _, conversation = spoken(GREETING, TO_V4)
    with pytest.raises(ValueError, match="wants"):
        conversation.receive(b"x")


@pytest.mark.parametrize(
    "said, answer",
    [
        ((b"\x04\x01",), b""),
        ((b"GE",), b""),
        ((b"\x05\x00",), b"\x05\xff"),
        ((b"\x05\x02\x01\x02",), b"\x05\xff"),
        ((GREETING, b"\x05\x02" + TO_V4[2:5]), reply(Reply.COMMAND_UNKNOWN)),
        ((GREETING, b"\x05\x03" + TO_V4[2:5]), reply(Reply.COMMAND_UNKNOWN)),
        ((GREETING, b"\x05\x01\x00\x02\x00"), reply(Reply.ADDRESS_UNKNOWN)),
        ((GREETING, b"\x04"), b""),
        ((GREETING, named(b"\xff\xfe")), reply(Reply.FAILED)),
        ((GREETING, named(b"")), reply(Reply.HOST_UNREACHABLE)),
        ((GREETING, named(b".")), reply(Reply.HOST_UNREACHABLE)),
    ],
    ids=["four", "http", "no-method", "password", "bind", "udp", "kind", "version", "utf8", "empty", "dot"],
)
def test_what_is_not_served_is_told_so(said: tuple[bytes, ...], answer: bytes) -> None:
    with pytest.raises(NotServed) as caught:
        spoken(*said)
    assert caught.value.answer == answer


def test_a_reply_is_ztunnels() -> None:
    assert reply(Reply.SUCCEEDED) == b"\x05\x00\x00\x01" + bytes(6)
