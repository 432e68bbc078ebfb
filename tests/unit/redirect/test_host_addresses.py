"""What messages of the kernel are news of, byte by byte."""

from __future__ import annotations

import socket
import struct

import pytest

from redirect.host_addresses import News, _kinds

HEADER = struct.Struct("=IHHII")
NEWLINK, DELLINK, NEWADDR, NEWQDISC, NEWROUTE = 16, 17, 20, 36, 24
LINK_SCOPE = 253


def message(kind: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, 0, 1, 0) + body


def of_link(ifindex: int) -> bytes:
    return struct.pack("=BxHiII", 0, 1, ifindex, 0, 0)


def of_address(family: int, scope: int, ifindex: int) -> bytes:
    return struct.pack("=BBBBI", family, 64, 0, scope, ifindex)


@pytest.mark.parametrize(
    ("data", "kinds", "links", "touched"),
    [
        (message(NEWLINK, of_link(5)), {News.LINKS}, {5}, {5}),
        (message(DELLINK, of_link(5)), {News.LINKS}, set(), {5}),
        (message(NEWQDISC, struct.pack("=BxxxiIII", 0, 6, 0, 0, 0)), {News.FILTERS}, set(), {6}),
        (message(NEWADDR, of_address(socket.AF_INET, 0, 7)), {News.ADDRESSES}, set(), set()),
        (message(NEWADDR, of_address(socket.AF_INET6, 0, 7)), {News.ADDRESSES}, set(), set()),
        (message(NEWADDR, of_address(socket.AF_INET, LINK_SCOPE, 7)), {News.ADDRESSES}, set(), set()),
        (message(NEWADDR, of_address(socket.AF_INET6, LINK_SCOPE, 7)), {News.LINKS}, set(), {7}),
        (message(NEWROUTE, bytes(12)), set(), set(), set()),
        (
            message(NEWLINK, of_link(5)) + message(NEWADDR, of_address(socket.AF_INET6, 0, 7)),
            {News.LINKS, News.ADDRESSES},
            {5},
            {5},
        ),
    ],
    ids=["new", "gone", "qdisc", "v4", "v6", "v4-of-a-link", "fe80", "route", "two"],
)
def test_what_a_message_is_about(data: bytes, kinds: set[News], links: set[int], touched: set[int]) -> None:
    assert _kinds(data) == (kinds, links, touched)
