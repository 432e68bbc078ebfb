"""HTTP/2 frames: names, sizes, error codes, and the bytes of every frame that is sent (RFC 9113 4, 6, 7).

Pure formats. What may be sent or accepted when is decided in `h2_tunnel`; this file knows no connection.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
MAX_WINDOW = (1 << 31) - 1
MAX_STREAM_ID = (1 << 31) - 1
DEFAULT_WINDOW = 65535
DEFAULT_FRAME_BYTES = 16384
LARGEST_FRAME_BYTES = (1 << 24) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

FRAME_HEADER = Struct(">HBBBL")
"""Length (upper 16 bits), length (lower 8 bits), type, flags, stream id."""
_LONG = Struct(">L")
_SETTING = Struct(">HL")


class ErrorCode(IntEnum):
    """RFC 9113 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def error_name(code: int) -> str:
    return ErrorCode(code).name if code in ErrorCode._value2member_map_ else f"code {code:#x}"


class Setting(IntEnum):
    """RFC 9113 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    """RFC 8441. Nothing that a client has to say, but Envoy does."""


class H2Error(Exception):
    """The peer broke the protocol so that the whole connection must end with GOAWAY(`code`)."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class H2StreamError(Exception):
    """The peer broke the protocol on one stream: RST_STREAM(`code`), the connection goes on."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: dict[Setting, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _LONG.pack(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _LONG.pack(code))


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: int, text: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _LONG.pack(last_stream_id) + _LONG.pack(code) + text.encode()[:200])


def headers(stream_id: int, block: bytes, *, ended: bool, frame_bytes: int) -> bytes:
    """HEADERS, and as many CONTINUATIONs as the peer's frame size asks for."""
    first, rest = block[:frame_bytes], block[frame_bytes:]
    flags = (END_STREAM if ended else 0) | (0 if rest else END_HEADERS)
    frames = [frame(HEADERS, flags, stream_id, first)]
    while rest:
        piece, rest = rest[:frame_bytes], rest[frame_bytes:]
        frames.append(frame(CONTINUATION, 0 if rest else END_HEADERS, stream_id, piece))
    return b"".join(frames)


def read_long(payload: bytes, at: int = 0) -> int:
    return int(_LONG.unpack_from(payload, at)[0])


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """The values of a SETTINGS frame, those with a legal range checked (RFC 9113 6.5.2)."""
    if len(payload) % _SETTING.size:
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes; want a multiple of 6")
    values = list(_SETTING.iter_unpack(payload))
    for key, value in values:
        if key == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value} is above 2^31-1")
        if key == Setting.MAX_FRAME_SIZE and not DEFAULT_FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value} is outside 2^14 to 2^24-1")
        if key == Setting.ENABLE_PUSH and value > 1:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value} is neither 0 nor 1")
    return values


def without_padding(flags: int, payload: bytes) -> bytes:
    """The content of a HEADERS frame without padding and priority fields (RFC 9113 6.2)."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without a padding length")
        start, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        start += 5
    if start > end:
        raise H2Error(ErrorCode.PROTOCOL_ERROR, "padding and priority leave no room in a HEADERS frame")
    return payload[start:end]
