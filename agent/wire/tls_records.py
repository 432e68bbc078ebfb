"""The TLS 1.3 record layer: seal and open records straight between socket buffers.

Sans-IO, keys only: the handshake is done elsewhere (`identity.handshake`), which hands over a `TlsState`.
That state is plain data, two secrets and two counters, so that a live connection can move to another
process with its socket. RFC 8446 sections 5 and 7; AES-GCM through `cryptography`.
Knows nothing of certificates, sockets or HTTP/2.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.model.unit import PlainValue, State, StateReader
from agent.wire.tls_alerts import Alert, alert_meaning

HEADER_BYTES = 5
TAG_BYTES = 16
MAX_PLAIN_BYTES = 1 << 14
MAX_CIPHER_BYTES = MAX_PLAIN_BYTES + 256
OVERHEAD_BYTES = HEADER_BYTES + 1 + TAG_BYTES
RECORD_BYTES = HEADER_BYTES + MAX_CIPHER_BYTES
"""The longest record a peer may send, header included."""

# RFC 8446 5.5: AES-GCM keys wear out after 2^24.5 full records; the round number below leaves a margin.
RECORDS_PER_KEY = 1 << 24
# Tickets carry the peer's chain with some servers; anything longer is no message of ours to wait for.
MAX_MESSAGE_BYTES = 1 << 16

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23
NEW_SESSION_TICKET, KEY_UPDATE = 4, 24
MAX_SEQUENCE = (1 << 64) - 1
HASTY_RECORDS, HASTY_UPDATES = 16, 100
"""So many KeyUpdates a peer may send after fewer records than that, each."""

_HEADER = Struct(">BHH")
_FULL_HEADER = _HEADER.pack(APPLICATION, 0x0303, MAX_PLAIN_BYTES + 1 + TAG_BYTES)


class TlsError(Exception):
    """The connection is over: send `alert` (None when the peer sent one itself) and close."""

    def __init__(self, alert: Alert | None, text: str) -> None:
        super().__init__(text)
        self.alert = alert


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite: its registered name and code, its hash, and the length of its keys."""

    name: str
    code: int
    hash_name: str
    key_bytes: int


AES_128 = Suite("TLS_AES_128_GCM_SHA256", 0x1301, "sha256", 16)
AES_256 = Suite("TLS_AES_256_GCM_SHA384", 0x1302, "sha384", 32)
SUITES = {suite.name: suite for suite in (AES_128, AES_256)}


@dataclass(frozen=True, slots=True)
class TlsState:
    """All there is to know of a live connection's TLS between two records: enough to go on with it elsewhere."""

    suite: str
    read_secret: bytes
    read_sequence: int
    write_secret: bytes
    write_sequence: int
    message: bytes = b""
    """The beginning of a handshake message that goes on in the next record."""
    hasty_updates: int = 0
    owes_key_update: bool = False

    def __repr__(self) -> str:  # secrets stay out of logs and dumps
        return f"TlsState({self.suite}, read #{self.read_sequence}, write #{self.write_sequence})"

    def plain(self) -> State:
        return {
            "suite": self.suite,
            "read_secret": self.read_secret,
            "read_sequence": self.read_sequence,
            "write_secret": self.write_secret,
            "write_sequence": self.write_sequence,
            "message": self.message,
            "hasty_updates": self.hasty_updates,
            "owes_key_update": self.owes_key_update,
        }

    @classmethod
    def from_plain(cls, value: PlainValue) -> TlsState:
        """Raises BadUnit."""
        fields = StateReader("the TLS records", value)
        suite = SUITES.get(fields.text("suite"))
        if suite is None:
            raise fields.refuse("suite", "unknown here")
        size = hmac.new(b"", b"", suite.hash_name).digest_size
        state = cls(
            suite=suite.name,
            read_secret=fields.blob("read_secret", size),
            read_sequence=fields.integer("read_sequence", most=MAX_SEQUENCE),
            write_secret=fields.blob("write_secret", size),
            write_sequence=fields.integer("write_sequence", most=MAX_SEQUENCE),
            message=fields.blob("message", MAX_MESSAGE_BYTES + MAX_PLAIN_BYTES),
            hasty_updates=fields.integer("hasty_updates", most=HASTY_UPDATES),
            owes_key_update=fields.flag("owes_key_update"),
        )
        fields.done()
        if len(state.read_secret) != size or len(state.write_secret) != size:
            raise fields.refuse("suite", f"its secrets have {size} bytes")
        return state


def expand_label(suite: Suite, secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context, for lengths up to one hash (RFC 8446 7.1)."""
    full = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0"
    return hmac.digest(secret, info + b"\x01", suite.hash_name)[:length]


class TrafficKey:
    """The key of one direction, made from its traffic secret, and the record counter under it."""

    __slots__ = ("aead", "iv", "secret", "sequence", "suite")

    def __init__(self, suite: Suite, secret: bytes, sequence: int = 0) -> None:
        self.suite = suite
        self.secret = secret
        self.sequence = sequence
        self.aead = AESGCM(expand_label(suite, secret, b"key", suite.key_bytes))
        self.iv = int.from_bytes(expand_label(suite, secret, b"iv", 12), "big")

    def successor(self) -> TrafficKey:
        """The key after a KeyUpdate (RFC 8446 7.2)."""
        size = len(self.secret)
        return TrafficKey(self.suite, expand_label(self.suite, self.secret, b"traffic upd", size))


class TlsRecords:
    """Both directions of one connection.

    `closed` becomes true on the peer's close_notify; `wants_to_write` when an answer to the peer (a
    KeyUpdate) waits for the next `seal`.
    """

    __slots__ = (
        "_hasty_updates",
        "_message",
        "_read",
        "_write",
        "closed",
        "records_per_key",
        "wants_to_write",
    )

    def __init__(self, state: TlsState, records_per_key: int = RECORDS_PER_KEY) -> None:
        suite = SUITES[state.suite]
        self._read = TrafficKey(suite, state.read_secret, state.read_sequence)
        self._write = TrafficKey(suite, state.write_secret, state.write_sequence)
        self._message = state.message
        self.records_per_key = records_per_key
        self.closed = False
        self._hasty_updates = state.hasty_updates
        self.wants_to_write = state.owes_key_update

    def state(self) -> TlsState:
        """The state to go on from. After the peer's close_notify there is nothing to go on with."""
        read, write = self._read, self._write
        return TlsState(
            read.suite.name,
            read.secret,
            read.sequence,
            write.secret,
            write.sequence,
            self._message,
            self._hasty_updates,
            self.wants_to_write,
        )

    # -- writing

    @staticmethod
    def sealed_bytes(length: int) -> int:
        """Room that `seal` may need for `length` bytes, a KeyUpdate in front included."""
        return length + (length // MAX_PLAIN_BYTES + 1) * OVERHEAD_BYTES + 2 * (OVERHEAD_BYTES + 5)

    def seal(self, plain: memoryview, length: int, out: memoryview) -> int:
        """Seal the first `length` bytes of `plain` into records in `out`; how many bytes were written.

        `plain` needs one byte of room behind `length`: the content type is set there for the moment of
        sealing, which saves a copy of the payload.
        """
        at = position = 0
        if self.wants_to_write:
            at = self._seal_key_update(out, at)
        key = self._write
        while position < length:
            if key.sequence >= self.records_per_key:
                at = self._seal_key_update(out, at)
                key = self._write
            end = position + MAX_PLAIN_BYTES
            if end <= length:
                header = _FULL_HEADER
            else:
                end = length
                header = _HEADER.pack(APPLICATION, 0x0303, end - position + 17)
            following = plain[end]
            plain[end] = APPLICATION
            start = at + HEADER_BYTES
            at = start + end - position + 17
            out[start - HEADER_BYTES : start] = header
            nonce = (key.iv ^ key.sequence).to_bytes(12, "big")
            key.aead.encrypt_into(nonce, plain[position : end + 1], header, out[start:at])
            key.sequence += 1
            plain[end] = following
            position = end
        return at

    def seal_alert(self, alert: Alert) -> bytes:
        """One alert record; everything but close_notify is fatal, and all end the writing side."""
        level = 1 if alert is Alert.CLOSE_NOTIFY else 2
        return self._seal_one(bytes((level, alert, ALERT)))

    def seal_handshake(self, message: bytes) -> bytes:
        return self._seal_one(message + bytes((HANDSHAKE,)))

    def _seal_one(self, inner: bytes) -> bytes:
        key = self._write
        header = _HEADER.pack(APPLICATION, 0x0303, len(inner) + TAG_BYTES)
        nonce = (key.iv ^ key.sequence).to_bytes(12, "big")
        key.sequence += 1
        return header + key.aead.encrypt(nonce, inner, header)

    def _seal_key_update(self, out: memoryview, at: int) -> int:
        """Tell the peer that the next record comes under the next key, without asking it to do the same."""
        self.wants_to_write = False
        record = self.seal_handshake(bytes((KEY_UPDATE, 0, 0, 1, 0)))
        out[at : at + len(record)] = record
        self._write = self._write.successor()
        return at + len(record)

    # -- reading

    def open(self, source: memoryview, length: int, out: memoryview) -> tuple[int, int]:
        """Open all whole records in `source[:length]`; application bytes end up together in `out`.

        Returns (bytes of `source` used, bytes of `out` written). `out` needs room for `length` bytes.
        Raises TlsError; what was opened before is lost with the connection.
        """
        used = made = 0
        while length - used >= HEADER_BYTES and not self.closed:
            if source[used] != APPLICATION:
                raise TlsError(
                    Alert.UNEXPECTED_MESSAGE,
                    f"record type {source[used]} after the handshake; want encrypted ones",
                )
            size = source[used + 3] << 8 | source[used + 4]
            if size > MAX_CIPHER_BYTES:
                raise TlsError(
                    Alert.RECORD_OVERFLOW, f"a TLS record of {size} bytes is longer than TLS 1.3 allows"
                )
            end = used + HEADER_BYTES + size
            if end > length:
                break
            made = self._open_one(source[used:end], size, out, made)
            used = end
        return used, made

    def _open_one(self, record: memoryview, size: int, out: memoryview, at: int) -> int:
        """Open one record to `out[at:]`; the new end of application bytes."""
        if size < TAG_BYTES + 1:
            raise TlsError(Alert.BAD_RECORD_MAC, f"a TLS record of {size} bytes is too short to be sealed")
        key = self._read
        nonce = (key.iv ^ key.sequence).to_bytes(12, "big")
        end = at + size - TAG_BYTES
        try:
            key.aead.decrypt_into(nonce, record[HEADER_BYTES:], record[:HEADER_BYTES], out[at:end])
        except InvalidTag:
            raise TlsError(
                Alert.BAD_RECORD_MAC, "a TLS record fails its integrity check: damaged, replayed or forged"
            ) from None
        key.sequence += 1
        end -= 1
        if end - at > MAX_PLAIN_BYTES:
            raise TlsError(Alert.RECORD_OVERFLOW, "the content of a TLS record is longer than 16384 bytes")
        if out[end] == APPLICATION:
            if self._message:
                raise TlsError(Alert.UNEXPECTED_MESSAGE, "a handshake message is cut by application data")
            return end
        self._open_other(out, at, end)
        return self._kept(out, at, end)

    @staticmethod
    def _kept(out: memoryview, at: int, end: int) -> int:
        """Where application bytes end: behind padded application data, else where they ended before."""
        while end > at and out[end] == 0:
            end -= 1
        return end if out[end] == APPLICATION else at

    def _open_other(self, out: memoryview, at: int, end: int) -> None:
        """Whatever is not plain, unpadded application data: padding, alerts, handshake messages."""
        while end > at and out[end] == 0:
            end -= 1
        kind = out[end]
        content = bytes(out[at:end]) if kind != APPLICATION else b""
        if kind != HANDSHAKE and self._message:
            raise TlsError(Alert.UNEXPECTED_MESSAGE, "a handshake message is cut by another record")
        if kind == ALERT:
            self._on_alert(content)
        elif kind == HANDSHAKE:
            self._on_handshake(content)
        elif kind != APPLICATION:
            raise TlsError(Alert.UNEXPECTED_MESSAGE, f"content type {kind} inside a TLS record")

    def _on_alert(self, content: bytes) -> None:
        if len(content) != 2:
            raise TlsError(Alert.DECODE_ERROR, f"an alert of {len(content)} bytes; it has 2")
        if content[1] == Alert.CLOSE_NOTIFY:
            self.closed = True
        elif content[1] != Alert.USER_CANCELED:
            raise TlsError(None, alert_meaning(content[1]))

    def _on_handshake(self, content: bytes) -> None:
        if not content:
            raise TlsError(Alert.UNEXPECTED_MESSAGE, "an empty handshake record")
        data = self._message + content
        while len(data) >= 4:
            size = int.from_bytes(data[1:4], "big")
            if size > MAX_MESSAGE_BYTES:
                raise TlsError(Alert.DECODE_ERROR, f"a handshake message of {size} bytes after the handshake")
            if len(data) < 4 + size:
                break
            self._on_message(data[0], data[4 : 4 + size], last=len(data) == 4 + size)
            data = data[4 + size :]
        self._message = data

    def _count_key_update(self) -> None:
        """A key costs some twenty times what a small record does; nobody needs a new one every few records."""
        self._hasty_updates += 1 if self._read.sequence < HASTY_RECORDS else 0
        if self._hasty_updates > HASTY_UPDATES:
            raise TlsError(Alert.UNEXPECTED_MESSAGE, "a flood of KeyUpdates")

    def _on_message(self, kind: int, body: bytes, *, last: bool) -> None:
        if kind == NEW_SESSION_TICKET:
            return  # no session is ever resumed
        if kind != KEY_UPDATE:
            raise TlsError(Alert.UNEXPECTED_MESSAGE, f"handshake message {kind} after the handshake")
        if len(body) != 1 or body[0] > 1:
            raise TlsError(Alert.DECODE_ERROR, "a KeyUpdate that is neither request nor answer")
        if not last:
            raise TlsError(Alert.UNEXPECTED_MESSAGE, "bytes follow a KeyUpdate inside its record")
        self._count_key_update()
        self._read = self._read.successor()
        if body[0] == 1:
            # However many requests arrive before the next write, one answer satisfies them (RFC 8446 4.6.3).
            self.wants_to_write = True
