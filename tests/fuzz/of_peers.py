"""What peers of the mesh say to a worker: TLS, HTTP/2, CONNECT and its headers, certificates."""

from __future__ import annotations

from contextlib import suppress

from cryptography.hazmat.primitives.serialization import Encoding
from hpack import Decoder, HPACKError
from OpenSSL import crypto

from agent.identity.engine import words_of
from agent.identity.handshake import HandshakeError, Session
from agent.identity.presented import Nobody, presented_by
from agent.identity.verify_words import WORDS
from agent.model.address import SocketAddress, ip_from_bytes
from agent.model.identity import Identity
from agent.wire import h2_frames as frames
from agent.wire.baggage import forwarded_host, parse_baggage
from agent.wire.h2_events import ConnectionFailed, DataReceived, WindowOpened
from agent.wire.h2_frames import H2Error, H2StreamError
from agent.wire.h2_headers import (
    HARD_LIST_BYTES,
    HeaderReader,
    _Stateful,
    check_fields,
    encode_fields,
    list_bytes,
    read_stateless,
)
from agent.wire.hbone import BadConnect, parse_authority, parse_connect, parse_status
from agent.wire.tls_records import SUITES, TlsError, TlsRecords, TlsState
from tests.fuzz.noise import Noise
from tests.support.netpair import CLIENT, SERVER
from tests.support.playbook import Talk, request

SUITE_NAMES = sorted(SUITES)
HELLO = Session.client(CLIENT, (SERVER.identity,)).outgoing()
LEAF = CLIENT.chain[0].public_bytes(Encoding.DER)
FRAME_KINDS = (*range(10), 16, 99)
ANSWERS_PER_BYTE = 20
"""So much may be said to a peer for each byte of its own: one of an answer has nine of header around it."""


def authority(data: bytes) -> None:
    """What names the same twice is the same, and nothing in it is more than printable ASCII."""
    try:
        host, port = parse_authority.__wrapped__(data.decode("latin-1"))
    except BadConnect as error:
        assert error.status == 400
        return
    assert 1 <= port <= 65535 and host.isascii() and host.isprintable() and not set(host) & set(" /@?#[]")
    again = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert parse_authority.__wrapped__(again) == (host, port)


def baggage(data: bytes) -> None:
    lines = data.decode("latin-1").split("\n")
    for key, value in parse_baggage(lines).items():
        assert value and not set(key + value) & set(",=") and (key + value).isascii()
    host = forwarded_host(lines[0])
    assert host is None or (host.isascii() and ";" not in host)


def header_blocks(data: bytes) -> None:
    """Blocks of one connection. What is read directly is what the library reads: nobody sees another request in it."""
    noise, reader, library = Noise(data), HeaderReader(), Decoder(HARD_LIST_BYTES)
    while noise.left:
        block = noise.some()
        try:
            fields = reader.read(block)
        except H2Error:
            return
        try:
            theirs = library.decode(block, raw=True)
        except HPACKError as error:
            raise AssertionError(f"read here, refused by hpack: {error}") from error
        assert fields == [(name.decode("latin-1"), value.decode("latin-1")) for name, value in theirs]
        judged(fields)
        try:
            assert read_stateless(encode_fields(fields)) == fields
        except (_Stateful, IndexError) as error:
            raise AssertionError("what we write cannot be read directly") from error


def judged(fields: list[tuple[str, str]]) -> None:
    """As a request, an answer and a trailer."""
    assert list_bytes(fields) >= 32 * len(fields)
    for is_trailer in (False, True):
        try:
            check_fields(fields, is_trailer=is_trailer)
        except H2StreamError:
            continue
        assert not any(set(name + value) & set("\r\n\0") for name, value in fields)
        try:
            head = parse_connect(fields)
        except (BadConnect, H2StreamError):
            pass
        else:
            assert not any(name.startswith(":") for name, _ in head.headers)
        try:
            assert 0 <= parse_status(fields) <= 999
        except H2StreamError:
            pass


def said_by(noise: Noise) -> list[bytes]:
    """Frames, well formed but for what is in them, and now and then mere bytes."""
    said = []
    while noise.left > 1:
        kind = noise.below(16)
        if kind == 15:
            said.append(noise.some())
        elif kind == 14:
            said.append(request(noise.below(8)))
        elif kind == 13:
            said.append(
                frames.frame(frames.DATA, noise.below(2), noise.below(4), bytes(noise.below(1 << 14)))
            )
        else:
            number = noise.below(8) if noise.below(8) else noise.below(1 << 31)
            said.append(frames.frame(noise.pick(FRAME_KINDS), noise.below(256), number, noise.some()))
    return said


def story(pieces: list[bytes], *, is_server: bool) -> list[object]:
    """All that happens, with DATA joined; that a window opened is said once of all that came together."""
    talk = Talk(is_server=is_server)
    if is_server:
        talk.accept()
    else:
        talk.open()
    found: list[object] = []
    opened: set[int] = set()
    for piece in pieces:
        for event in talk.play(piece):
            if isinstance(event, DataReceived):
                last = found[-1] if found else None
                if not (isinstance(last, list) and last[0] == event.stream.id and not last[2]):
                    found.append(last := [event.stream.id, b"", False])
                last[1] += bytes(event.data)
                last[2] = event.ended
                if talk.codec.consumed(event.stream, len(event.data)):
                    talk.codec.give_credit(event.stream, 0.0)
            elif isinstance(event, WindowOpened):
                opened.add(event.stream.id if event.stream is not None else 0)
            else:
                found.append(repr(event))
                if isinstance(event, ConnectionFailed):
                    assert talk.play(request(11)) == []
        assert len(talk.codec._partial) <= frames.HEADER_BYTES + (1 << 17)
    return [*found, sorted(opened), talk.codec.data_to_send()]


def conversation(data: bytes, *, is_server: bool) -> None:
    noise = Noise(data)
    cuts = Noise(noise.bytes(noise.below(16)))
    whole = b"".join(said_by(noise))
    told = story([whole], is_server=is_server)
    answers = told[-1]
    assert isinstance(answers, bytes) and len(answers) <= ANSWERS_PER_BYTE * len(whole) + 1000
    # How credit is given back depends on what comes together: what is said then differs, what happens does not.
    assert story(cuts.pieces(whole), is_server=is_server)[:-1] == told[:-1]


def h2_of_clients(data: bytes) -> None:
    conversation(data, is_server=True)


def h2_of_servers(data: bytes) -> None:
    conversation(data, is_server=False)


def tls_records(data: bytes) -> None:
    """Records that were sealed arrive, however cut, over a hand-over in the middle; what was not, ends it."""
    noise = Noise(data)
    suite = SUITES[noise.pick(SUITE_NAMES)]
    size = 32 if suite.hash_name == "sha256" else 48
    secret, wire, sent, is_honest = b"k" * size, b"", b"", True
    sender = TlsRecords(TlsState(suite.name, secret, 0, secret, 0), records_per_key=3)
    cuts = Noise(noise.bytes(noise.below(8)))
    while noise.left:
        match noise.below(8):
            case 0 | 1:
                plain = noise.some() * (1 + noise.below(100))
                room = bytearray(TlsRecords.sealed_bytes(len(plain)))
                made = sender.seal(memoryview(bytearray(plain + b"\0")), len(plain), memoryview(room))
                wire += room[:made]
                sent += plain
            case 2:
                sender.wants_to_write = True
            case 3:
                plain = noise.some()
                wire += sender._seal_one(plain + b"\x17" + bytes(noise.below(300)))
                sent += plain
            case 4 | 5:
                wire += sender._seal_one(noise.some() + bytes((noise.pick((20, 21, 22, 24, 0)),)))
                is_honest = False
            case 6:
                wire += noise.some()
                is_honest = False
            case 7 if wire:
                at = noise.below(len(wire))
                wire = wire[:at] + bytes((wire[at] ^ (1 + noise.below(255)),)) + wire[at + 1 :]
                is_honest = False
    receiver, waiting, got = TlsRecords(TlsState(suite.name, secret, 0, secret, 0)), bytearray(), b""
    try:
        for piece in cuts.pieces(wire):
            waiting += piece
            out = bytearray(len(waiting))
            used, made = receiver.open(memoryview(waiting), len(waiting), memoryview(out))
            got += out[:made]
            del waiting[:used]
            if receiver.closed:
                break
            receiver = TlsRecords(TlsState.from_plain(receiver.state().plain()))
    except TlsError as error:
        assert str(error) and not is_honest
        return
    assert got == sent and not waiting if is_honest else len(got) <= len(wire)


def handshake(data: bytes) -> None:
    """A stranger's bytes, or a real hello that is changed, or both."""
    noise = Noise(data)
    hello = bytearray(HELLO if noise.below(2) else b"")
    for _ in range(noise.below(6)):
        if hello:
            hello[noise.below(len(hello))] = noise.below(256)
    session = Session.server(SERVER)
    try:
        for piece in Noise(noise.bytes(noise.below(8))).pieces(bytes(hello) + noise.rest()):
            session.feed(piece)
            session.outgoing()
    except HandshakeError as error:
        assert error.detail
    assert not session.done
    session.close()


def certificate(data: bytes) -> None:
    """A leaf that is changed names one of the mesh, or nobody in words, or is none; why it is refused is said."""
    noise = Noise(data)
    error, depth = noise.pick(sorted(WORDS)), noise.below(2)
    der = bytearray(LEAF if noise.below(4) else noise.rest())
    for _ in range(noise.below(8)):
        if der:
            der[noise.below(len(der))] = noise.below(256)
    raw = bytes(der)
    with suppress(ValueError):
        found = presented_by.__wrapped__(raw)
        assert found.text if isinstance(found, Nobody) else Identity.parse(str(found)) == found
    with suppress(crypto.Error):
        # OpenSSL hands on what it can read, and nothing else.
        crypto.load_certificate(crypto.FILETYPE_ASN1, raw)
        words = words_of(error, raw, depth, CLIENT.anchors)
        assert words.isprintable() and len(words) < 2000


def addresses(noise: Noise) -> SocketAddress:
    return SocketAddress(
        ip_from_bytes(noise.bytes(16).rjust(16, b"\0")[: noise.pick((4, 16))]), noise.below(65536)
    )
