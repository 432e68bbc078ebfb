"""DNS over a stream: each message behind its length (RFC 1035, 4.2.2). Sans-IO."""

from __future__ import annotations

import struct

_LENGTH = struct.Struct(">H")


def framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def take_message(arrived: bytearray) -> bytes | None:
    """The first message, which is taken out of what has arrived; None while it is not whole."""
    if len(arrived) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(arrived)
    end = _LENGTH.size + length
    if len(arrived) < end:
        return None
    message = bytes(arrived[_LENGTH.size : end])
    del arrived[:end]
    return message
