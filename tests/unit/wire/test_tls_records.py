"""The record layer against RFC 8448, against OpenSSL as the other end, and against everything malformed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from agent.model.unit import BadUnit, PlainValue, Unit, decode, encode
from agent.wire.tls_alerts import Alert
from agent.wire.tls_records import (
    AES_128,
    ALERT,
    APPLICATION,
    HANDSHAKE,
    HASTY_UPDATES,
    KEY_UPDATE,
    MAX_PLAIN_BYTES,
    NEW_SESSION_TICKET,
    SUITES,
    TlsError,
    TlsRecords,
    TlsState,
    TrafficKey,
    expand_label,
)
from tests.support.certs import TestCA

SECRETS = {
    "TLS_AES_128_GCM_SHA256": (bytes(range(32)), bytes(range(32, 64))),
    "TLS_AES_256_GCM_SHA384": (bytes(range(48)), bytes(range(48, 96))),
}
SUITE_NAMES = sorted(SECRETS)


def pair(suite: str = AES_128.name, **limits: int) -> tuple[TlsRecords, TlsRecords]:
    """Two ends of one connection."""
    one, two = SECRETS[suite]
    return (
        TlsRecords(TlsState(suite, one, 0, two, 0), **limits),
        TlsRecords(TlsState(suite, two, 0, one, 0), **limits),
    )


def seal(records: TlsRecords, data: bytes) -> bytes:
    out = memoryview(bytearray(TlsRecords.sealed_bytes(len(data))))
    made = records.seal(memoryview(bytearray(data + b"\xee")), len(data), out)
    return bytes(out[:made])


def unseal(records: TlsRecords, data: bytes) -> tuple[int, bytes]:
    out = memoryview(bytearray(len(data) + 1))
    used, made = records.open(memoryview(data), len(data), out)
    return used, bytes(out[:made])


def raw(records: TlsRecords, inner: bytes) -> bytes:
    """A sealed record with any inner plaintext, content type and padding included."""
    return records._seal_one(inner)


# RFC 8448 section 3, "simple 1-RTT handshake": application traffic secrets and what is derived from them.
RFC_8448 = {
    "client": (
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
        "17422dda596ed5d9acd890e3c63f5051",
        "5b78923dee08579033e523d9",
    ),
    "server": (
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
        "9f02283b6c9c07efc26bb9f2ac92e356",
        "cf782b88dd83549aadf1e984",
    ),
}
PAYLOAD = bytes(range(50))
CLIENT_RECORD = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a"
    "6292a2977014bd1e3deae63aeebb21694915e4"
)


@pytest.mark.parametrize("end", RFC_8448)
def test_keys_are_those_of_rfc_8448(end: str) -> None:
    secret, key, iv = (bytes.fromhex(value) for value in RFC_8448[end])
    assert expand_label(AES_128, secret, b"key", 16) == key
    assert expand_label(AES_128, secret, b"iv", 12) == iv


def test_the_first_application_record_is_that_of_rfc_8448() -> None:
    client, server = (bytes.fromhex(RFC_8448[end][0]) for end in ("client", "server"))
    assert seal(TlsRecords(TlsState(AES_128.name, server, 1, client, 0)), PAYLOAD) == CLIENT_RECORD
    opened = unseal(TlsRecords(TlsState(AES_128.name, client, 0, server, 1)), CLIENT_RECORD)
    assert opened == (len(CLIENT_RECORD), PAYLOAD)


@pytest.mark.parametrize("suite", SUITE_NAMES)
@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 100_000])
def test_what_is_sealed_opens(suite: str, size: int) -> None:
    one, two = pair(suite)
    data = bytes(i * 7 & 255 for i in range(size))
    sealed = seal(one, data)
    assert unseal(two, sealed) == (len(sealed), data)
    assert one.state().write_sequence == two.state().read_sequence == (size + 16383) // 16384


def test_sealing_leaves_the_plaintext_as_it_was() -> None:
    plain = bytearray(b"\xaa" * (2 * MAX_PLAIN_BYTES + 5))
    one, _ = pair()
    one.seal(memoryview(plain), 2 * MAX_PLAIN_BYTES + 4, memoryview(bytearray(40000)))
    assert plain == b"\xaa" * (2 * MAX_PLAIN_BYTES + 5)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40000), max_size=4), st.lists(st.integers(1, 20000), max_size=12))
def test_how_the_bytes_are_cut_does_not_matter(messages: list[bytes], cuts: list[int]) -> None:
    one, two = pair()
    stream = b"".join(seal(one, message) for message in messages)
    held, got = b"", b""
    for cut in [*cuts, len(stream)]:
        held, stream = held + stream[:cut], stream[cut:]
        used, data = unseal(two, held)
        held, got = held[used:], got + data
    assert (got, held) == (b"".join(messages), b"")


@settings(max_examples=150)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_damage_is_a_tls_error(message: bytes, data: st.DataObject) -> None:
    one, two = pair()
    sealed = bytearray(seal(one, message))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    try:
        used, opened = unseal(two, bytes(sealed))
    except TlsError:
        return
    # Only a length that grew can go unnoticed, and only until the missing bytes come.
    assert (used, opened) == (0, b"") and at in (3, 4)


@given(st.binary(max_size=200))
def test_noise_is_a_tls_error_or_waits_for_more(noise: bytes) -> None:
    try:
        used, opened = unseal(pair()[1], noise)
    except TlsError:
        return
    assert (used, opened) == (0, b"")


@settings(max_examples=150)
@example([(0, b"\0\x17")])
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 20, ALERT, HANDSHAKE, APPLICATION]), st.binary(max_size=40)), max_size=5
    )
)
def test_any_sealed_content_is_data_or_a_tls_error(contents: list[tuple[int, bytes]]) -> None:
    one, two = pair()
    stream = b"".join(raw(one, body + bytes((kind,)) + b"\0" * (len(body) % 3)) for kind, body in contents)
    try:
        _, opened = unseal(two, stream)
    except TlsError:
        return
    # The type is the last byte that is not zero, so a body may end in one when its own type is zero.
    inner = [(body + bytes((kind,))).rstrip(b"\0") for kind, body in contents]
    typed = [(text[-1], text[:-1]) for text in inner]
    closed_at = next((i for i, (kind, body) in enumerate(typed) if kind == ALERT and body[1:] == b"\0"), None)
    assert opened == b"".join(body for kind, body in typed[:closed_at] if kind == APPLICATION)


def test_a_replayed_record_fails() -> None:
    one, two = pair()
    sealed = seal(one, b"once")
    unseal(two, sealed)
    with pytest.raises(TlsError, match="integrity") as caught:
        unseal(two, sealed)
    assert caught.value.alert is Alert.BAD_RECORD_MAC


@pytest.mark.parametrize("suite", SUITE_NAMES)
def test_a_worn_key_is_replaced_by_its_owner(suite: str) -> None:
    one, two = pair(suite, records_per_key=3)
    for message in (b"a" * 40000, b"b" * 40000, b"c"):
        assert unseal(two, seal(one, message))[1] == message
    assert one.state().write_secret == two.state().read_secret != SECRETS[suite][1]


def update(one: TlsRecords, asks: int = 0) -> bytes:
    record = one.seal_handshake(bytes((KEY_UPDATE, 0, 0, 1, asks)))
    one._write = one._write.successor()
    return record


def test_a_requested_key_update_is_answered_once_under_the_old_key() -> None:
    one, two = pair()
    unseal(two, update(one, asks=1))
    unseal(two, update(one, asks=1))
    assert two.wants_to_write
    answer = seal(two, b"")
    assert not two.wants_to_write
    assert unseal(one, answer + seal(two, b"fresh")) == (len(answer) + 27, b"fresh")
    assert unseal(two, seal(one, b"too"))[1] == b"too"
    assert one.state().read_secret == two.state().write_secret != SECRETS[AES_128.name][0]


def test_a_flood_of_key_updates_ends_the_connection() -> None:
    one, two = pair()
    with pytest.raises(TlsError, match="flood"):
        unseal(two, b"".join(update(one) for _ in range(200)))


def test_keys_may_be_new_every_few_records() -> None:
    one, two = pair()
    for _ in range(200):
        records = b"".join(seal(one, b"x") for _ in range(16))
        assert unseal(two, records + update(one))[1] == b"x" * 16


TICKET = bytes((NEW_SESSION_TICKET, 0, 0, 4)) + b"tick"
BAD_CONTENT = [
    ("empty record without type", b"", "too short"),
    ("only padding", b"\0\0\0", "content type 0"),
    ("unknown content type", b"x\x18", "content type 24"),
    ("change cipher spec inside", b"\x01\x14", "content type 20"),
    ("alert of one byte", b"\x02\x15", "alert of 1 bytes"),
    ("fatal alert", b"\x02\x30\x15", "unknown_ca"),
    ("alert nobody knows", b"\x02\xc8\x15", "alert 200"),
    ("empty handshake record", b"\x16", "empty handshake"),
    ("message of the handshake proper", b"\x01\0\0\0\x16", "message 1 after"),
    ("post-handshake authentication", b"\x0d\0\0\0\x16", "message 13 after"),
    ("key update with a body of two", bytes((KEY_UPDATE, 0, 0, 2, 0, 0, HANDSHAKE)), "neither"),
    ("key update 2", bytes((KEY_UPDATE, 0, 0, 1, 2, HANDSHAKE)), "neither"),
    ("bytes behind a key update", bytes((KEY_UPDATE, 0, 0, 1, 0)) + TICKET + b"\x16", "follow a KeyUpdate"),
    ("message without end", b"\x04\xff\xff\xff\x16", "16777215"),
]


@pytest.mark.parametrize(
    ("content", "text"), [row[1:] for row in BAD_CONTENT], ids=[r[0] for r in BAD_CONTENT]
)
def test_bad_content_ends_the_connection(content: bytes, text: str) -> None:
    one, two = pair()
    with pytest.raises(TlsError, match=text):
        unseal(two, raw(one, content))


@pytest.mark.parametrize(
    ("header", "alert", "text"),
    [
        (b"\x17\x03\x03\x41\x01", Alert.RECORD_OVERFLOW, "16641 bytes"),
        (b"\x17\x03\x03\x00\x00", Alert.BAD_RECORD_MAC, "too short"),
        (b"\x16\x03\x03\x00\x05", Alert.UNEXPECTED_MESSAGE, "record type 22"),
        (b"\x15\x03\x03\x00\x02\x02\x28", Alert.UNEXPECTED_MESSAGE, "record type 21"),
        (b"GET / HTTP/1.1\r\n\r\n", Alert.UNEXPECTED_MESSAGE, "record type 71"),
    ],
)
def test_bad_records_are_named(header: bytes, alert: Alert, text: str) -> None:
    with pytest.raises(TlsError, match=text) as caught:
        unseal(pair()[1], header)
    assert caught.value.alert is alert


def test_content_longer_than_a_record_may_hold_is_refused() -> None:
    one, two = pair()
    with pytest.raises(TlsError, match="longer than 16384") as caught:
        unseal(two, raw(one, b"x" * (MAX_PLAIN_BYTES + 1) + bytes((APPLICATION,))))
    assert caught.value.alert is Alert.RECORD_OVERFLOW


def test_tickets_are_ignored_even_in_pieces_and_padding_is_dropped() -> None:
    one, two = pair()
    stream = raw(one, TICKET + TICKET[:3] + b"\x16") + raw(one, TICKET[3:] + b"\x16\0\0")
    stream += raw(one, b"data\x17" + b"\0" * 100) + raw(one, b"\x17") + seal(one, b"more")
    assert unseal(two, stream) == (len(stream), b"datamore")


def test_a_message_may_not_be_cut_by_data() -> None:
    one, two = pair()
    with pytest.raises(TlsError, match="cut by application data"):
        unseal(two, raw(one, TICKET[:3] + b"\x16") + seal(one, b"data"))


def test_close_notify_ends_reading() -> None:
    one, two = pair()
    stream = seal(one, b"last words") + one.seal_alert(Alert.CLOSE_NOTIFY)
    assert unseal(two, stream + b"\x17garbage") == (len(stream), b"last words")
    assert two.closed


def test_the_state_moves_to_another_owner() -> None:
    one, two = pair(records_per_key=2)
    unseal(two, seal(one, b"x" * 70000))
    unseal(one, seal(two, b"y" * 20000))
    one, two = moved(one), moved(two)
    assert unseal(two, seal(one, b"after"))[1] == b"after"
    assert unseal(one, seal(two, b"the move"))[1] == b"the move"


def moved(records: TlsRecords) -> TlsRecords:
    """As another process goes on with it."""
    return TlsRecords(TlsState.from_plain(decode(encode(Unit("tls", records.state().plain()))).fields))


@pytest.mark.parametrize("suite", SUITE_NAMES)
def test_a_message_that_is_cut_and_an_answer_that_is_owed_move_with_it(suite: str) -> None:
    one, two = pair(suite)
    update = bytes((KEY_UPDATE, 0, 0, 1, 1))
    unseal(two, raw(one, update[:3] + bytes((HANDSHAKE,))))
    two = moved(two)
    unseal(two, raw(one, update[3:] + bytes((HANDSHAKE,))))
    one._write = one._write.successor()
    two = moved(two)
    before = two.state().write_secret
    answer = seal(two, b"and then")
    assert two.state().write_secret != before
    two = moved(two)
    assert not two.wants_to_write, "it was said once"
    assert unseal(one, answer + seal(two, b", later"))[1] == b"and then, later"
    assert unseal(two, seal(one, b"the next key"))[1] == b"the next key"


def test_a_flood_of_key_updates_is_counted_across_moves() -> None:
    one, two = pair()
    with pytest.raises(TlsError, match="a flood of KeyUpdates"):
        for _ in range(HASTY_UPDATES + 1):
            unseal(two, raw(one, bytes((KEY_UPDATE, 0, 0, 1, 0, HANDSHAKE))))
            one._write = one._write.successor()
            two = moved(two)


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "TLS_CHACHA20_POLY1305_SHA256"},
        {"suite": "TLS_AES_256_GCM_SHA384"},
        {"read_secret": bytes(31)},
        {"write_secret": bytes(33)},
        {"read_sequence": -1},
        {"write_sequence": 1 << 64},
        {"hasty_updates": HASTY_UPDATES + 1},
        {"early_data": b""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_state_that_cannot_be_is_refused(change: dict[str, PlainValue]) -> None:
    with pytest.raises(BadUnit):
        TlsState.from_plain({**pair()[0].state().plain(), **change})


def test_secrets_are_never_printed() -> None:
    state = pair()[0].state()
    assert state.read_secret.hex() not in repr(state) and repr(state.read_secret) not in repr(state)


def test_nonces_differ_by_sequence_number() -> None:
    key = TrafficKey(AES_128, bytes(32), sequence=258)
    one = TlsRecords(TlsState(AES_128.name, bytes(32), 0, bytes(32), 258))
    record = seal(one, b"hi")
    nonce = (key.iv ^ 258).to_bytes(12, "big")
    assert (
        AESGCM(expand_label(AES_128, bytes(32), b"key", 16)).decrypt(nonce, record[5:], record[:5])
        == b"hi\x17"
    )


# -- OpenSSL as the other end, for the whole connection


class OpenSslPeer:
    """pyOpenSSL holds one end; the secrets of the other are taken from its key log."""

    def __init__(self, suite: str, *, peer_is_server: bool) -> None:
        ca = TestCA()
        issued = ca.issue("spiffe://cluster.local/ns/a/sa/a")
        self.secrets: dict[bytes, bytes] = {}
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_tls13_ciphersuites(suite.encode())
        context.use_privatekey(issued.key)
        context.use_certificate(issued.leaf)
        context.set_keylog_callback(self._on_secret)
        client, server = SSL.Connection(context, None), SSL.Connection(context, None)
        client.set_connect_state()
        server.set_accept_state()
        self._shake(client, server)
        read, write = b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"
        self.peer = client
        if peer_is_server:
            self.peer, read, write = server, write, read
        self.ours = TlsRecords(TlsState(suite, self.secrets[read], 0, self.secrets[write], 0))

    def _on_secret(self, connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.split()
        self.secrets[label] = bytes.fromhex(secret.decode())

    def output(self) -> bytes:
        """All that OpenSSL wants to send."""
        pieces = []
        with pytest.raises(SSL.WantReadError):
            while True:
                pieces.append(self.peer.bio_read(65536))
        return b"".join(pieces)

    def _shake(self, client: SSL.Connection, server: SSL.Connection) -> None:
        for end, other in ((client, server), (server, client)):
            with pytest.raises(SSL.WantReadError):
                end.do_handshake()
            other.bio_write(end.bio_read(65536))
        client.do_handshake()
        server.bio_write(client.bio_read(65536))
        server.do_handshake()
        self.tickets = server.bio_read(65536)


@pytest.mark.parametrize("suite", SUITE_NAMES)
def test_openssl_reads_and_writes_what_we_do(suite: str) -> None:
    link = OpenSslPeer(suite, peer_is_server=True)
    assert unseal(link.ours, link.tickets) == (len(link.tickets), b"")
    for size in (1, 16384, 50000):
        data = bytes(i & 255 for i in range(size))
        link.peer.bio_write(seal(link.ours, data))
        got = b""
        while len(got) < size:
            got += link.peer.recv(65536)
        assert got == data
        sent = 0
        while sent < size:
            sent += link.peer.send(data[sent:])
        assert unseal(link.ours, link.output())[1] == data


@pytest.mark.parametrize("suite", SUITE_NAMES)
def test_openssl_follows_our_key_updates_and_reads_our_close(suite: str) -> None:
    link = OpenSslPeer(suite, peer_is_server=True)
    link.ours.records_per_key = 2
    for _ in range(5):
        link.peer.bio_write(seal(link.ours, b"z" * 16384))
        assert link.peer.recv(16384) == b"z" * 16384
    link.peer.bio_write(link.ours.seal_alert(Alert.CLOSE_NOTIFY))
    with pytest.raises(SSL.ZeroReturnError):
        link.peer.recv(1)


def test_openssl_as_client_reads_what_we_write() -> None:
    link = OpenSslPeer(AES_128.name, peer_is_server=False)
    assert set(SUITES) == set(SUITE_NAMES)
    link.peer.send(b"from the client")
    assert unseal(link.ours, link.peer.bio_read(65536))[1] == b"from the client"
    link.peer.bio_write(seal(link.ours, b"from the server"))
    assert link.peer.recv(100) == b"from the server"
