"""HTTP/2 header blocks (HPACK, RFC 7541): bounded decoding of what peers send, and our own encoding.

Our blocks use no compression state at all: the first empties the table, all fields are literals without
indexing, so the peer's table size never matters and constant parts are encoded once. Blocks of peers that
use no state either are read directly; all others go through the `hpack` library, in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from agent.model.unit import PlainValue, State, StateReader
from agent.wire.h2_frames import ErrorCode, H2Error, H2StreamError

Fields = list[tuple[str, str]]

EMPTY_TABLE = b"\x20"
"""Dynamic table size update to 0: starts the first block of a connection."""

# Above this nothing is decoded to the end, so HPACK state is lost and the connection with it.
HARD_LIST_BYTES = 1 << 18
FIELD_OVERHEAD_BYTES = 32
_STATIC = [(name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE]
_STATIC_NAMES: dict[str, int] = {}
for _index, (_name, _) in enumerate(_STATIC, 1):
    _STATIC_NAMES.setdefault(_name, _index)
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(r"[\0\r\n]|^[ \t]|[ \t]\Z")
_PSEUDO_FIELDS = frozenset((":method", ":authority", ":scheme", ":path", ":protocol", ":status"))
_CONNECTION_FIELDS = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)
_STATUS = {"200": b"\x88", "204": b"\x89", "400": b"\x8c", "404": b"\x8d", "500": b"\x8e"}


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT = tuple(bytes((size,)) for size in range(127))


def _text(text: str) -> bytes:
    raw = text.encode("latin-1")
    size = len(raw)
    return (_SHORT[size] if size < 127 else _integer(size, 7, 0)) + raw


@lru_cache(maxsize=64)
def _literal_name(name: str) -> bytes:
    index = _STATIC_NAMES.get(name, 0)
    return _integer(index, 4, 0) if index else b"\0" + _text(name)


def encode_field(name: str, value: str) -> bytes:
    """A literal field without indexing, its name from the static table where it is there."""
    return _literal_name(name) + _text(value)


@lru_cache(maxsize=4096)
def encode_connect(authority: str) -> bytes:
    """The constant part of a CONNECT to one authority."""
    return encode_field(":method", "CONNECT") + encode_field(":authority", authority)


def encode_status(status: int) -> bytes:
    text = str(status)
    return _STATUS.get(text) or encode_field(":status", text)


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    return b"".join([_literal_name(name) + _text(value) for name, value in fields])


class _Stateful(Exception):
    """The block uses the dynamic table or Huffman coding: not for the direct reader."""


def _read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 21:
            raise _Stateful  # the library knows what to say about such numbers


def _read_text(block: bytes, at: int) -> tuple[str, int]:
    size = block[at]
    if size & 0x80:
        raise _Stateful
    if size == 0x7F:
        size, at = _read_integer(block, at, 0x7F)
    else:
        at += 1
    end = at + size
    if end > len(block):
        raise _Stateful
    return block[at:end].decode("latin-1"), end


def read_stateless(block: bytes) -> Fields:
    """Fields of a block that neither uses nor changes the dynamic table. Raises _Stateful or IndexError."""
    fields: Fields = []
    at, end = 0, len(block)
    while at < end:
        first = block[at]
        if first & 0x80:
            index, at = _read_integer(block, at, 0x7F)
            if not 1 <= index <= len(_STATIC):
                raise _Stateful
            fields.append(_STATIC[index - 1])
            continue
        if first & 0x60:
            raise _Stateful  # an insertion or a change of the table's size
        index = first & 0x0F
        if index:
            index, at = _read_integer(block, at, 0x0F)
            if index > len(_STATIC):
                raise _Stateful
            name = _STATIC[index - 1][0]
        else:
            name, at = _read_text(block, at + 1)
        size = block[at]
        if size < 0x7F and at + size < end:
            at += 1 + size
            fields.append((name, block[at - size : at].decode("latin-1")))
        else:
            value, at = _read_text(block, at)
            fields.append((name, value))
    return fields


def list_bytes(fields: Fields) -> int:
    """The size of a header list as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    size = FIELD_OVERHEAD_BYTES * len(fields)
    for name, value in fields:
        size += len(name) + len(value)
    return size


@lru_cache(maxsize=1024)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _CONNECTION_FIELDS


def check_fields(fields: Fields, *, is_trailer: bool) -> None:
    """Refuse what no HTTP/2 peer may send (RFC 9113 8.2, 8.3): raises H2StreamError(PROTOCOL_ERROR)."""
    seen: set[str] = set()
    pseudo_over = is_trailer
    for name, value in fields:
        if name[:1] == ":":
            if pseudo_over or name in seen or name not in _PSEUDO_FIELDS:
                raise H2StreamError(
                    ErrorCode.PROTOCOL_ERROR, f"the field {name!r} is unknown, late or repeated"
                )
            seen.add(name)
        else:
            pseudo_over = True
            if not _is_name(name):
                raise H2StreamError(ErrorCode.PROTOCOL_ERROR, f"the field name {name[:64]!r} is not legal")
        # Nearly every value is printable, which is found out in half the time of a search.
        if not (value.isprintable() and value.strip(" ") is value) and _BAD_VALUE.search(value):
            raise H2StreamError(ErrorCode.PROTOCOL_ERROR, f"the value of {name[:64]!r} is not legal")


class HeaderReader:
    """Decodes the header blocks of one connection; must see every block, in order."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder: Decoder | None = None

    def read(self, block: bytes) -> Fields:
        """The fields, bytes as Latin-1. Raises H2Error: after that the connection's HPACK state is lost."""
        try:
            return read_stateless(block)
        except (_Stateful, IndexError):
            pass
        if self._decoder is None:
            self._decoder = Decoder(HARD_LIST_BYTES)
        try:
            decoded = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise H2Error(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header list of more than {HARD_LIST_BYTES} bytes"
            ) from None
        except HPACKError as error:
            # By its class: the library's words may have addresses of this process in them, and the peer is told ours.
            what = type(error).__name__
            raise H2Error(ErrorCode.COMPRESSION_ERROR, f"a header block cannot be decoded ({what})") from None
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decoded]

    def state(self) -> State | None:
        """None while every block could be read without state. `rows`: name and value in turn, the newest first."""
        decoder = self._decoder
        if decoder is None:
            return None
        rows: list[PlainValue] = []
        for name, value in decoder.header_table.dynamic_entries:
            rows += (bytes(name), bytes(value))
        return {"table_bytes": decoder.header_table_size, "rows": rows}

    def restore(self, value: PlainValue) -> None:
        """Raises BadUnit."""
        if value is None:
            return
        fields = StateReader("the header table", value)
        decoder = self._decoder = Decoder(HARD_LIST_BYTES)
        decoder.header_table_size = fields.integer("table_bytes", 0, decoder.max_allowed_table_size)
        rows = fields.blobs("rows", 2 * decoder.header_table_size // FIELD_OVERHEAD_BYTES + 1)
        fields.done()
        table = decoder.header_table
        for at in range(len(rows) - 2, -1, -2):
            table.add(rows[at], rows[at + 1])
        if 2 * len(table.dynamic_entries) != len(rows):
            raise fields.refuse("rows", f"they are more than {decoder.header_table_size} bytes")
