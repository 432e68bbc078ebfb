"""Limits in a workload's message: there and back, and what cannot be used."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agent.pb import authorization_pb2 as authz
from agent.pb import workload_pb2, ztun_pb2
from agent.wire.xds_decode import DecodeError, decode_address
from agent.wire.xds_encode import encode_address
from tests.unit.state.test_directory import EVERY_FIELD


def test_what_control_says_a_worker_hears() -> None:
    assert decode_address(EVERY_FIELD.uid, encode_address(EVERY_FIELD)) == EVERY_FIELD
    without = dataclasses.replace(EVERY_FIELD, limits=())
    assert decode_address(without.uid, encode_address(without)) == without


def said(value: bytes, name: str = "ztun.io/limits") -> bytes:
    address = workload_pb2.Address()
    address.workload.uid = "w"
    address.workload.extensions.add(name=name).config.value = value
    return address.SerializeToString()


def test_extensions_of_others_are_theirs() -> None:
    assert decode_address("w", said(b"\xff", "example.com/other")).limits == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"new_per_second": 0}, "limits[0].new_per_second: 0 is not from 1 to 1000000000000"),
        ({"bytes_per_second": 999}, "limits[0].bytes_per_second: 999 is not from 1000"),
        ({"connections": 1 << 60}, "limits[0].connections: 1152921504606846976 is not from 0"),
        ({"clients": [authz.Match(destination_ports=[80])]}, "limits[0].clients[0].destination_ports: a client"),
        ({"clients": [authz.Match(not_destination_ports=[80])]}, "clients[0].not_destination_ports: a client is known"),
        *[
            ({"clients": [authz.Match(**{name: [authz.Address(address=bytes(4))]})]}, f"[0].{name}: a client is known")
            for name in ("source_ips", "not_source_ips", "destination_ips", "not_destination_ips")
        ],
        ({"clients": [authz.Match(principals=[authz.StringMatch()])]}, "clients[0].principals[0]: no kind of match"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_field(fields: dict[str, Any], why: str) -> None:
    message = ztun_pb2.ConnectionLimits(limits=[ztun_pb2.ConnectionLimit(**fields)])
    with pytest.raises(DecodeError) as refused:
        decode_address("w", said(message.SerializeToString()))
    assert why in str(refused.value)


def test_bytes_that_are_no_limits() -> None:
    with pytest.raises(DecodeError, match=r"not a ztun\.v1\.ConnectionLimits"):
        decode_address("w", said(b"\xff"))
