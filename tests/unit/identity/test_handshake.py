"""Handshakes between two of ours, and every way in which a peer must be refused with a reason."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from agent.identity.credentials import Credentials
from agent.identity.faults import Fault
from agent.identity.handshake import MAX_HANDSHAKE_BYTES, HandshakeError, Session
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from agent.wire.tls_records import TlsError, TlsRecords
from tests.support.certs import HOUR, Issued, TestCA, credentials
from tests.support.handshakes import open_all, seal, shake

A = "spiffe://cluster.local/ns/a/sa/a"
B = "spiffe://cluster.local/ns/b/sa/b"
CA = TestCA()
OTHER_CA = TestCA()
CLIENT = credentials(CA, A)
SERVER = credentials(CA, B)
ACCEPT_B = (SERVER.identity,)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_both_ends_know_each_other(piece: int) -> None:
    client, server = shake(CLIENT, SERVER, ACCEPT_B, piece=piece)
    assert client.secured.peer == Identity.parse(B) and server.secured.peer == Identity.parse(A)
    assert client.secured.suite == server.secured.suite == "TLS_AES_128_GCM_SHA256"
    assert client.secured.group == "X25519MLKEM768"
    assert client.secured.leftover == server.secured.leftover == b""


def test_records_go_on_where_the_handshake_ended_tickets_counted() -> None:
    client, server = Session.client(CLIENT, ACCEPT_B), Session.server(SERVER)
    server.feed(client.outgoing())
    client.feed(server.outgoing())
    server.feed(client.outgoing())
    tickets = server.outgoing()
    ours, theirs = TlsRecords(client.secured.state), TlsRecords(server.secured.state)
    assert open_all(ours, tickets + seal(theirs, b"answer")) == b"answer"
    assert open_all(theirs, seal(ours, b"request")) == b"request"


def test_bytes_behind_the_handshake_stay_ours() -> None:
    one, two = Session.client(CLIENT, ACCEPT_B), Session.server(SERVER)
    two.feed(one.outgoing())
    one.feed(two.outgoing())
    records = TlsRecords(one.secured.state)
    early, cut = seal(records, b"at once" * 2000), seal(records, b", and more")
    two.feed(one.outgoing() + early + cut[:9])
    assert two.secured.leftover == early + cut[:9]
    said = open_all(TlsRecords(two.secured.state), two.secured.leftover + cut[9:])
    assert said == b"at once" * 2000 + b", and more"


def test_what_is_no_record_behind_the_handshake_is_not_its_fault() -> None:
    one, two = Session.client(CLIENT, ACCEPT_B), Session.server(SERVER)
    two.feed(one.outgoing())
    one.feed(two.outgoing())
    two.feed(one.outgoing() + b"GET /")
    assert two.secured.leftover == b"GET /"


def test_a_fault_of_ours_in_the_middle_of_openssl_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_broken(*_: object) -> str:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("agent.identity.engine.not_accepted", is_broken)
    client, server = Session.client(presented(OTHER_CA.issue(A)), ACCEPT_B), Session.server(SERVER)
    server.feed(client.outgoing())
    client.feed(server.outgoing())
    with pytest.raises(ZeroDivisionError, match="of ours"):
        server.feed(client.outgoing())
    assert not server.done
    assert shake(CLIENT, SERVER, ACCEPT_B)[1].done, "the next handshake hears nothing of it"


def test_an_intermediate_is_presented_and_several_roots_are_trusted() -> None:
    client = credentials(CA, A, issued=CA.issue(A, intermediate=True), roots=(OTHER_CA, CA))
    server = credentials(OTHER_CA, B, roots=(CA, OTHER_CA))
    assert shake(client, server, ACCEPT_B)[1].secured.peer == Identity.parse(A)


def answered(context: SSL.Context) -> tuple[SSL.Connection, Session]:
    """A client of OpenSSL itself that has the answer to its hello, and our server, still without its last words."""
    peer, session = SSL.Connection(context, None), Session.server(SERVER)
    peer.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        peer.do_handshake()
    session.feed(peer.bio_read(1 << 16))
    peer.bio_write(session.outgoing())
    peer.do_handshake()
    return peer, session


def test_the_root_is_not_sent_along() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_alpn_protos([b"h2"])
    context.use_privatekey(CLIENT.key)
    context.use_certificate(CLIENT.chain[0])
    peer, _ = answered(context)
    assert peer.get_peer_cert_chain(as_cryptography=True) == list(SERVER.chain)


def test_an_rsa_root_and_the_other_suite_work_too() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_tls13_ciphersuites(b"TLS_AES_256_GCM_SHA384")
    context.set_alpn_protos([b"h2"])
    issued = CA.issue(A)
    context.use_privatekey(issued.key)
    context.use_certificate(issued.leaf)
    peer = SSL.Connection(context, None)
    peer.set_connect_state()
    session = Session.server(SERVER)
    for _ in range(2):
        try:
            peer.do_handshake()
        except SSL.WantReadError:
            pass
        session.feed(peer.bio_read(65536))
        peer.bio_write(session.outgoing())
    assert session.secured.suite == "TLS_AES_256_GCM_SHA384" and len(session.secured.state.read_secret) == 48
    peer.send(b"hello")
    assert open_all(TlsRecords(session.secured.state), peer.bio_read(65536)) == b"hello"
    assert peer.get_servername() is None


# -- whom the server refuses


def presented(issued: Issued, ca: TestCA = CA) -> Credentials:
    return credentials(ca, A, issued=issued, roots=(CA,))


REFUSED_CLIENTS = [
    ("expired", lambda: presented(CA.expired(A)), Outcome.TLS_FAILED, "expired"),
    ("another root", lambda: presented(OTHER_CA.issue(A)), Outcome.TLS_FAILED, "not accepted"),
    (
        "wrong usage",
        lambda: presented(CA.issue(A, usages=("server",))),
        Outcome.TLS_FAILED,
        "extended key usage",
    ),
    ("no SAN", lambda: presented(CA.issue(None)), Outcome.WRONG_IDENTITY, "no SPIFFE identity"),
    (
        "SAN is no identity",
        lambda: presented(CA.issue("https://a/")),
        Outcome.WRONG_IDENTITY,
        "no SPIFFE identity",
    ),
    (
        "another trust domain",
        lambda: presented(CA.issue("spiffe://other/ns/a/sa/a")),
        Outcome.WRONG_IDENTITY,
        "spiffe://other/ns/a/sa/a; want one in the trust domain 'cluster.local'",
    ),
]


@pytest.mark.parametrize(
    ("client", "outcome", "text"),
    [row[1:] for row in REFUSED_CLIENTS],
    ids=[row[0] for row in REFUSED_CLIENTS],
)
def test_the_server_refuses(client: object, outcome: Outcome, text: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        shake(client(), SERVER, ACCEPT_B)  # type: ignore[operator]
    assert caught.value.outcome is outcome and text in caught.value.detail


def test_a_refused_client_learns_it_by_an_alert() -> None:
    one, two = Session.client(presented(CA.issue(None)), ACCEPT_B), Session.server(SERVER)
    two.feed(one.outgoing())
    one.feed(two.outgoing())
    with pytest.raises(HandshakeError):
        two.feed(one.outgoing())
    with pytest.raises(TlsError, match="access_denied"):
        open_all(TlsRecords(one.secured.state), two.outgoing())


def test_a_client_without_certificate_is_refused() -> None:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with pytest.raises(HandshakeError, match="presents no certificate"):
        stdlib_client(context)


def test_a_client_without_certificate_is_told_so() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_alpn_protos([b"h2"])
    peer, session = answered(context)
    with pytest.raises(HandshakeError):
        session.feed(peer.bio_read(1 << 16))
    peer.bio_write(session.outgoing())
    with pytest.raises(SSL.Error, match="certificate required"):
        peer.recv(1)


def test_a_client_without_h2_is_refused() -> None:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    with pytest.raises(HandshakeError, match=r"http/1.1|h2"):
        stdlib_client(context)


def test_tls_1_2_is_refused() -> None:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(HandshakeError, match=r"version|protocol") as caught:
        stdlib_client(context)
    assert caught.value.outcome is Outcome.TLS_FAILED


def stdlib_client(context: ssl.SSLContext) -> None:
    """A handshake of Python's own ssl module, as a stranger, with our server."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = context.wrap_bio(incoming, outgoing)
    session = Session.server(SERVER)
    for _ in range(3):
        try:
            peer.do_handshake()
        except ssl.SSLWantReadError:
            pass
        if data := outgoing.read():
            session.feed(data)
        incoming.write(session.outgoing())


# -- whom the client refuses


def test_the_server_may_be_any_of_the_accepted() -> None:
    accepted = (Identity.parse("spiffe://cluster.local/ns/z/sa/z"), Identity.parse(B))
    client, _ = shake(CLIENT, SERVER, accepted)
    assert client.secured.peer == Identity.parse(B)


def test_the_client_names_expected_and_presented_and_keeps_its_certificate() -> None:
    one, two = Session.client(CLIENT, (CLIENT.identity,)), Session.server(SERVER)
    two.feed(one.outgoing())
    with pytest.raises(HandshakeError) as caught:
        one.feed(two.outgoing())
    assert caught.value.outcome is Outcome.WRONG_IDENTITY
    assert caught.value.detail == f"the server presents {B}; expected {A}"
    assert one.outgoing() == b""


@pytest.mark.parametrize("is_server", [False, True])
def test_a_peer_that_says_nothing_of_protocols_is_refused(is_server: bool) -> None:
    issued = CA.issue(A)
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey(issued.key)
    context.use_certificate(issued.leaf)
    peer = SSL.Connection(context, None)
    if is_server:
        session = Session.client(SERVER, (Identity.parse(A),))
        peer.set_accept_state()
        peer.bio_write(session.outgoing())
    else:
        session = Session.server(SERVER)
        peer.set_connect_state()
    with pytest.raises(HandshakeError, match="no ALPN h2") as caught:
        for _ in range(3):
            try:
                peer.do_handshake()
            except SSL.WantReadError:
                pass
            session.feed(peer.bio_read(1 << 16))
            peer.bio_write(session.outgoing())
    assert caught.value.fault is Fault.NO_HTTP2


def test_nothing_accepted_means_nobody() -> None:
    with pytest.raises(HandshakeError, match="expected nobody"):
        shake(CLIENT, SERVER, ())


@pytest.mark.parametrize(
    ("issued", "text"),
    [
        (CA.expired(B), "expired"),
        (OTHER_CA.issue(B), "not accepted"),
        (CA.issue(B, usages=("client",)), "extended key usage"),
    ],
    ids=["expired", "another root", "wrong usage"],
)
def test_the_client_refuses(issued: Issued, text: str) -> None:
    with pytest.raises(HandshakeError, match=text) as caught:
        shake(CLIENT, credentials(CA, B, issued=issued), ACCEPT_B)
    assert caught.value.outcome is Outcome.TLS_FAILED


LATER = datetime.now(UTC) + HOUR / 2
NOT_YET = {"not_before": LATER, "not_after": LATER + HOUR}


@pytest.mark.parametrize(
    ("issue", "fault", "words", "told"),
    [
        (CA.expired, Fault.EXPIRED, "it expired at", "certificate_expired"),
        (
            lambda uri: CA.issue(uri, **NOT_YET),
            Fault.NOT_YET_VALID,
            "it is not valid before",
            "not valid yet by the peer",
        ),
    ],
    ids=["too late", "too early"],
)
@pytest.mark.parametrize("by_server", [True, False], ids=["by the server", "by the client"])
def test_too_early_and_too_late_are_told_apart_at_both_ends(
    issue: Callable[[str], Issued], fault: Fault, words: str, told: str, by_server: bool
) -> None:
    client, server = CLIENT, SERVER
    if by_server:
        client = credentials(CA, A, issued=issue(A))
    else:
        server = credentials(CA, B, issued=issue(B))
    one, two = Session.client(client, ACCEPT_B), Session.server(server)
    two.feed(one.outgoing())
    judge, judged = (two, one) if by_server else (one, two)
    if by_server:
        one.feed(two.outgoing())
    with pytest.raises(HandshakeError, match=words) as refused:
        judge.feed(judged.outgoing())
    assert refused.value.fault is fault
    if not by_server:
        with pytest.raises(HandshakeError, match=told) as heard:
            judged.feed(judge.outgoing())
        assert heard.value.fault is Fault.REFUSED_BY_PEER


# -- strangers, and what must never be seen


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", r"does not speak TLS.*GET /"),
        (b"PRI * HTTP/2.0\r\n", "does not speak TLS"),
        (b"\x16\x03\x01\xff\xff", "longer than any legal"),
        (b"\x16\x03\x01\x00\x05hello", "TLS handshake"),
        (b"\x17\x03\x03\x00\x05hello", "TLS handshake"),
    ],
)
def test_strangers_are_named(data: bytes, text: str) -> None:
    session = Session.server(SERVER)
    with pytest.raises(HandshakeError, match=text) as caught:
        session.feed(data)
    assert caught.value.outcome is Outcome.TLS_FAILED


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509 objects")
@pytest.mark.parametrize("what", ["a version", "an extension twice", "a name of bits"])
def test_a_strangers_certificate_that_cannot_be_read_is_a_reason_too(what: str) -> None:
    """OpenSSL can, and asks for a word about it."""
    issued = TestCA().issue("spiffe://cluster.local/ns/a/sa/client", is_ca=False)
    der = bytearray(issued.leaf.public_bytes(Encoding.DER))
    if what == "a version":
        der[der.index(b"\xa0\x03\x02\x01\x02") + 4] = 37
    elif what == "a name of bits":  # the issuer's, a UTF8String, becomes a BIT STRING with no bit unused
        at = der.index(b"root of")
        der[at - 2], der[at] = 3, 0
    else:  # basicConstraints becomes a second extendedKeyUsage
        der[der.index(b"\x55\x1d\x13") + 2] = 37
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey(issued.key)
    context.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, bytes(der)))
    context.set_alpn_protos([b"h2"])
    stranger, session = SSL.Connection(context, None), Session.server(SERVER)
    stranger.set_connect_state()
    with pytest.raises(HandshakeError, match=r"the peer's certificate .*is not accepted") as caught:
        for _ in range(3):
            with suppress(SSL.WantReadError):
                stranger.do_handshake()
            session.feed(stranger.bio_read(65536))
            stranger.bio_write(session.outgoing())
    assert caught.value.fault in (Fault.UNTRUSTED, Fault.BAD_CERTIFICATE)


def test_an_endless_handshake_is_cut_off() -> None:
    session = Session.server(SERVER)
    hello = b"\x16\x03\x01\x40\x00" + b"\x01\x03\xff\xff" + bytes(16380)
    with pytest.raises(HandshakeError):
        for _ in range(20):
            session.feed(hello)


def test_records_that_mean_nothing_are_not_taken_for_ever() -> None:
    session = Session.server(SERVER)
    session.feed(Session.client(CLIENT, ACCEPT_B).outgoing())
    with pytest.raises(HandshakeError, match="unexpected ccs message"):
        for _ in range(100):
            session.feed(b"\x14\x03\x03\x00\x01\x01")


def test_nobody_has_more_to_say_before_its_handshake_than_any_legal_one_has() -> None:
    session = Session.server(SERVER)
    # Nearly the longest message that OpenSSL waits for.
    hello = b"\x01" + (MAX_HANDSHAKE_BYTES - 1).to_bytes(3, "big")
    with pytest.raises(HandshakeError, match="longer than any legal one"):
        for piece in (hello + bytes((1 << 14) - 4), *8 * (bytes(1 << 14),)):
            session.feed(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece)


def test_nothing_secret_is_printed() -> None:
    client, _ = shake(CLIENT, SERVER, ACCEPT_B)
    shown = repr(CLIENT) + repr(client.secured) + repr(client.secured.state)
    number = CLIENT.key.private_numbers().private_value
    assert str(number) not in shown and "PRIVATE" not in shown
    assert client.secured.state.read_secret.hex() not in shown and "key=" not in shown


def test_contexts_are_made_once() -> None:
    assert CLIENT.client_context is CLIENT.client_context
    assert CLIENT.server_context is CLIENT.server_context
