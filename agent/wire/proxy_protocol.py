"""The header of the PROXY protocol, version 2, that an application asks for in front of its bytes.

Source: haproxy's proxy-protocol.txt, 2.2. Beside both addresses it carries who the client has proven to be, in a TLV
of ztunnel's own (docs/WIRE.md#application-tunnels). Only ever written: nothing that a pod says in one is believed.
"""

from __future__ import annotations

import struct

from agent.model.address import SocketAddress
from agent.model.identity import Identity

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
VERSION_2_PROXY = 0x21
STREAM = 0x1
"""The low half of the byte of family and transport; the high half is one of FAMILIES, 0 for addresses of two."""
FAMILIES = {4: 0x10, 6: 0x20}
TLV_IDENTITY = 0xD0
_HEAD = struct.Struct("!12sBBH")
_PORTS = struct.Struct("!HH")
_TLV = struct.Struct("!BH")


def header(source: SocketAddress, destination: SocketAddress, identity: Identity | None) -> bytes:
    """What comes first on the connection: a client at `source` wanted `destination`.

    Addresses of two families are left out, as the protocol has no form for them.
    """
    family, addresses = 0, b""
    if source.ip.version == destination.ip.version:
        family = FAMILIES[source.ip.version]
        addresses = source.ip.packed + destination.ip.packed + _PORTS.pack(source.port, destination.port)
    tlv = b""
    if identity is not None:
        value = str(identity).encode()
        tlv = _TLV.pack(TLV_IDENTITY, len(value)) + value
    body = addresses + tlv
    return _HEAD.pack(SIGNATURE, VERSION_2_PROXY, family | STREAM, len(body)) + body
