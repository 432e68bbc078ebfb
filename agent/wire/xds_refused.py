"""What is still readable of workloads and services that cannot be used: their addresses.

Read apart from `xds_decode`, which refuses a resource for its first fault: here each address counts by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from agent.model.address import AddressError, NetworkAddress, cidr_from_bytes, ip_from_bytes
from agent.model.service import CidrVip
from agent.pb import workload_pb2


class Readable(NamedTuple):
    """Addresses, and ranges of them. `is_whole`: there are no others that nobody here can read."""

    addresses: tuple[NetworkAddress | CidrVip, ...]
    is_whole: bool


NOTHING = Readable((), is_whole=False)


def readable_addresses(raw: bytes) -> Readable:
    """Of a resource of type `istio.workload.Address`. One of neither kind may be of one that came after this build."""
    message = workload_pb2.Address()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        return NOTHING
    kind = message.WhichOneof("type")
    if kind is None:
        return NOTHING
    found = list(_of_workload(message.workload) if kind == "workload" else _of_service(message.service))
    addresses = tuple(address for address in found if address is not None)
    return Readable(addresses, is_whole=len(addresses) == len(found))


def _of_workload(m: Any) -> Iterator[NetworkAddress | None]:
    for raw in m.addresses:
        try:
            yield NetworkAddress(m.network, ip_from_bytes(raw))
        except AddressError:
            yield None


def _of_service(m: Any) -> Iterator[NetworkAddress | CidrVip | None]:
    for each in m.addresses:
        try:
            if each.HasField("length") and each.length != len(each.address) * 8:
                yield CidrVip(each.network, cidr_from_bytes(each.address, each.length))
            else:
                yield NetworkAddress(each.network, ip_from_bytes(each.address))
        except AddressError:
            yield None
