"""PROXY headers byte by byte, as haproxy's text has them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.address import SocketAddress
from agent.model.identity import Identity
from agent.wire.proxy_protocol import header

WEB = Identity("cluster.local", "apps", "web")
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def at(text: str) -> SocketAddress:
    return SocketAddress.parse(text)


@pytest.mark.parametrize(
    ("source", "destination", "family", "addresses"),
    [
        ("10.0.0.9:40000", "10.9.0.1:80", 0x11, "0a000009 0a090001 9c40 0050"),
        (
            "[fd00::9]:40000",
            "[fd00::1]:80",
            0x21,
            "fd000000000000000000000000000009 fd000000000000000000000000000001 9c40 0050",
        ),
        ("10.0.0.9:40000", "[fd00::1]:80", 0x01, ""),
    ],
    ids=["4", "6", "mixed"],
)
def test_both_addresses_and_who_the_client_is(
    source: str, destination: str, family: int, addresses: str
) -> None:
    name = b"spiffe://cluster.local/ns/apps/sa/web"
    body = bytes.fromhex(addresses) + b"\xd0" + struct.pack("!H", len(name)) + name
    expected = SIGNATURE + bytes((0x21, family)) + struct.pack("!H", len(body)) + body
    assert header(at(source), at(destination), WEB) == expected


def test_without_an_identity_there_is_no_tlv() -> None:
    made = header(at("10.0.0.9:1"), at("10.0.0.1:2"), None)
    assert len(made) == 16 + 12 and made[14:16] == b"\x00\x0c"


ADDRESSES = st.builds(SocketAddress, st.ip_addresses(), st.integers(1, 65535))


@given(ADDRESSES, ADDRESSES)
def test_its_length_is_what_it_says(source: SocketAddress, destination: SocketAddress) -> None:
    made = header(source, destination, WEB)
    assert struct.unpack("!H", made[14:16])[0] == len(made) - 16
    if source.ip.version == destination.ip.version:
        size = len(source.ip.packed)
        assert ip_address(made[16 : 16 + size]) == source.ip
        assert ip_address(made[16 + size : 16 + 2 * size]) == destination.ip
        ports = made[16 + 2 * size : 20 + 2 * size]
        assert struct.unpack("!HH", ports) == (source.port, destination.port)
