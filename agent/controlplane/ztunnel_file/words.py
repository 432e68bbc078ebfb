"""What objects of ztunnel's file share: enumerations by their words, gateways, ports, ranges. Pure.

ztunnel leaves a field out that it does not know. Here that is an error, as a misspelt one may be what closes something.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from agent.controlplane.read.fields import Field
from agent.model.address import (
    CIDR,
    IP,
    AddressError,
    NamespacedHostname,
    NetworkAddress,
    parse_cidr,
    parse_ip,
)
from agent.model.workload import GatewayAddress

E = TypeVar("E", bound=Enum)
MAX_PORT = 65535
HBONE_PORT = 15008


def only(at: Field, *known: str) -> None:
    """Raises ManifestError for another key than these."""
    for key in at.names():
        if key not in known:
            raise at.get(key).error(f"there is no such field; known here: {', '.join(sorted(known))}")


def word(at: Field, kind: type[E], default: E) -> E:
    """One of an enumeration, as dumps spell it."""
    words = {str(each.value): each for each in kind}
    return words[at.one_of(*words)] if at.present else default


def address(at: Field) -> IP:
    try:
        return parse_ip(at.text())
    except AddressError as error:
        raise at.error(str(error)) from error


def network_address(at: Field) -> NetworkAddress:
    """`NETWORK/IP`; the network may be empty: `/10.0.0.1`."""
    network, slash, ip = at.text().partition("/")
    try:
        if not slash:
            raise AddressError(f"{at.text()!r} is not NETWORK/IP (of the mesh's own network: /IP)")
        return NetworkAddress(network, parse_ip(ip))
    except AddressError as error:
        raise at.error(str(error)) from error


def key_of_service(at: Field, text: str) -> NamespacedHostname:
    try:
        return NamespacedHostname.parse(text)
    except AddressError as error:
        raise at.error(str(error)) from error


def cidr(at: Field) -> CIDR:
    try:
        return parse_cidr(at.text())
    except AddressError as error:
        raise at.error(str(error)) from error


def gateway(at: Field) -> GatewayAddress | None:
    """`destination` is `NETWORK/IP` or `NAMESPACE/HOSTNAME`."""
    if not at.present:
        return None
    only(at, "destination", "hboneMtlsPort")
    where = at.get("destination")
    try:
        parse_ip(where.text().partition("/")[2])
    except AddressError:
        to: NetworkAddress | NamespacedHostname = key_of_service(where, where.text())
    else:
        to = network_address(where)
    return GatewayAddress(to, at.get("hboneMtlsPort").integer(1, MAX_PORT, HBONE_PORT))


def ports(at: Field) -> dict[int, int]:
    """Service port -> target port; 0: each endpoint says it."""
    found: dict[int, int] = {}
    for key in at.names():
        if not (key.isascii() and key.isdigit() and 0 < int(key) <= MAX_PORT):
            raise at.get(key).error(f"{key!r} is not a port from 1 to {MAX_PORT}")
        found[int(key)] = at.get(key).integer(0, MAX_PORT)
    return found
