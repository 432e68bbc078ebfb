"""What is readable of resources that cannot be used: each address by itself."""

from __future__ import annotations

from typing import Any

import pytest

from agent.model.address import NetworkAddress, parse_cidr, parse_ip
from agent.model.service import CidrVip
from agent.pb import workload_pb2
from agent.wire.xds_refused import readable_addresses

V4, V6, NONE = bytes([10, 0, 0, 1]), bytes.fromhex("fd00" + "00" * 13 + "01"), b"12345"
LATER_KIND = bytes([15 << 3 | 2, 4]) + b"some"


def workload(**fields: Any) -> bytes:
    return workload_pb2.Address(workload=workload_pb2.Workload(**fields)).SerializeToString()


def service(*addresses: dict[str, Any]) -> bytes:
    return workload_pb2.Address(service={"addresses": addresses}).SerializeToString()


@pytest.mark.parametrize(
    ("raw", "texts", "is_whole"),
    [
        (workload(network="n1", addresses=[V4, V6]), ["n1/10.0.0.1", "n1/fd00::1"], True),
        (workload(hostname="far.test"), [], True),
        (workload(addresses=[NONE, V4]), ["/10.0.0.1"], False),
        (
            service({"address": V4}, {"network": "n1", "address": V4, "length": 24}),
            ["/10.0.0.1", "n1/10.0.0.0/24"],
            True,
        ),
        (service({"address": V4, "length": 33}, {"address": NONE}, {"address": V6}), ["/fd00::1"], False),
        (b"", [], False),
        (LATER_KIND, [], False),
        (b"noise", [], False),
    ],
)
def test_where_what_cannot_be_used_would_have_been(raw: bytes, texts: list[str], is_whole: bool) -> None:
    found = readable_addresses(raw)
    shown = [f"{a.network}/{a.cidr}" if isinstance(a, CidrVip) else str(a) for a in found.addresses]
    assert (shown, found.is_whole) == (texts, is_whole)


def test_addresses_and_ranges_are_values_to_compare() -> None:
    raw = service({"network": "a/b", "address": V4}, {"address": V4, "length": 8})
    vip, cidr = NetworkAddress("a/b", parse_ip("10.0.0.1")), CidrVip("", parse_cidr("10.0.0.0/8"))
    assert readable_addresses(raw).addresses == (vip, cidr)
