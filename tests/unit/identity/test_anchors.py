"""Trust anchors of every shape, in real handshakes of both roles: whom they let in, and whom never."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.anchors import is_authority
from agent.identity.credentials import Credentials
from agent.identity.handshake import HandshakeError, Session
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from agent.wire.tls_records import TlsError, TlsRecords
from tests.support.certs import HOUR, Issued, TestCA
from tests.support.handshakes import open_all, shake

A = "spiffe://cluster.local/ns/a/sa/a"
B = "spiffe://cluster.local/ns/b/sa/b"
ROOT = TestCA()
ISSUING = TestCA(parent=ROOT, name="issuing CA")
"""As cert-manager and Vault give it: the mesh gets this one as its root."""
BELOW = TestCA(parent=ISSUING, name="lower CA")
OTHER = TestCA("other.example")
NO_CA = TestCA(parent=ISSUING, name="pretender", is_ca=False)
EXPIRED = TestCA(parent=ROOT, name="old CA", not_after=datetime.now(UTC) - HOUR)


class End(NamedTuple):
    """What one end shows and what it trusts."""

    shows: Issued
    trusts: list[x509.Certificate]


def credentials(uri: str, end: End) -> Credentials:
    return Credentials(Identity.parse(uri), end.shows.key, tuple(end.shows.chain), tuple(end.trusts))


def handshake(client: End, server: End) -> None:
    one, two = shake(credentials(A, client), credentials(B, server), (Identity.parse(B),))
    assert (one.secured.peer, two.secured.peer) == (Identity.parse(B), Identity.parse(A))


def under(ca: TestCA, uri: str, *above: TestCA, **options: object) -> Issued:
    """A leaf of a CA, shown with the certificates of these above it."""
    issued = ca.issue(uri, **options)  # type: ignore[arg-type]
    return Issued(issued.key, [*issued.chain, *(each.root for each in above)])


@pytest.mark.parametrize(
    ("above", "anchors"),
    [
        ((ISSUING,), [ISSUING]),
        ((), [ISSUING]),
        ((ISSUING,), [ROOT]),
        ((ISSUING, ROOT), [ISSUING]),
        ((ISSUING, ROOT), [ROOT]),
        ((ISSUING,), [OTHER, ISSUING, ROOT]),
        ((ISSUING,), [EXPIRED, ISSUING]),
    ],
    ids=lambda value: "+".join(ca.root.subject.rfc4514_string()[3:9] for ca in value) or "nothing",
)
def test_an_anchor_is_an_anchor_whoever_signed_it(above: tuple[TestCA, ...], anchors: list[TestCA]) -> None:
    trusts = [ca.root for ca in anchors]
    handshake(End(under(ISSUING, A, *above), trusts), End(under(ISSUING, B, *above), trusts))


def test_a_chain_may_end_at_an_anchor_in_its_middle() -> None:
    trusts = [ISSUING.root]
    handshake(
        End(under(BELOW, A, BELOW, ISSUING), trusts), End(under(BELOW, B, BELOW, ISSUING, ROOT), trusts)
    )


def test_an_anchor_that_was_renewed_stays_listed_beside_its_successor() -> None:
    old = ISSUING.renewed(not_after=datetime.now(UTC) - HOUR)
    for trusts in ([old, ISSUING.root], [ISSUING.root, old]):
        handshake(End(under(ISSUING, A), trusts), End(under(ISSUING, B), trusts))
    with pytest.raises(HandshakeError, match="it expired at"):
        handshake(End(under(ISSUING, A), [old]), End(under(ISSUING, B), [old]))


LEAF = ISSUING.issue(A)
"""Somebody listed it among the anchors."""
REFUSED = [
    ("expired", under(ISSUING, A, ISSUING, not_before=datetime.now(UTC) - 3 * HOUR,
                      not_after=datetime.now(UTC) - HOUR), [ISSUING], "it expired at"),
    ("not valid yet", under(ISSUING, A, not_before=datetime.now(UTC) + HOUR / 2), [ISSUING], "not valid before"),
    ("a sister of the anchor", under(TestCA(parent=ROOT), A), [ISSUING], "is neither among the trust anchors here"),
    ("under the root, which is not the anchor", under(ROOT, A), [ISSUING], "neither among the trust anchors"),
    ("another root, sent along", under(OTHER, A, OTHER), [ISSUING], "it is a root that is not among the trust anchors"),
    ("an anchor that expired", under(EXPIRED, A), [EXPIRED, ROOT], "it expired at"),
    ("the same name, another key", under(TestCA(parent=ROOT, name="issuing CA"), A), [ISSUING], "made anew"),
    ("a leaf as anchor", LEAF, [LEAF.leaf], "trust anchors here (there are none)"),
    ("a leaf beside the anchor of others", OTHER.issue(A), [ISSUING, OTHER.issue(A).leaf], "neither among"),
    ("under a leaf that is an anchor", None, [LEAF.leaf], "signed by itself"),
    ("a CA certificate of the mesh as its own", under(ISSUING, A, is_ca=True), [ISSUING], "is that of a CA"),
    ("under an issuer that is no authority", under(NO_CA, A, NO_CA), [ISSUING], "is not a CA certificate"),
    ("an anchor as its own", None, [ISSUING], "is that of a CA"),
    ("signed by itself", None, [ISSUING], "signed by itself"),
]  # fmt: skip


def shown(name: str, issued: Issued | None) -> Issued:
    """The rows that need a key of their own."""
    if issued is not None:
        return issued
    if name == "an anchor as its own":
        return Issued(ISSUING._key, [ISSUING.root])
    pretender = TestCA()
    pretender._key = LEAF.key if name.startswith("under a leaf") else pretender._key
    pretender.root = LEAF.leaf if name.startswith("under a leaf") else pretender.root
    if name == "signed by itself":
        return Issued(pretender._key, [pretender.root])
    return pretender.issue(A)


@pytest.mark.parametrize(("name", "issued", "trusts", "text"), REFUSED, ids=[row[0] for row in REFUSED])
@pytest.mark.parametrize("role", ["client", "server"])
def test_nobody_else_gets_in(
    name: str, issued: Issued | None, trusts: list[object], text: str, role: str
) -> None:
    """`issued` is shown by that role; the other end shows what all of the anchors would let in."""
    anchors = [ca.root if isinstance(ca, TestCA) else ca for ca in trusts]
    stranger = shown(name, issued)
    good = next((ca for ca in trusts if isinstance(ca, TestCA) and ca is not EXPIRED), ISSUING)
    verifier = End(under(good, B), anchors)  # type: ignore[arg-type]
    trusting = [ISSUING.root, ROOT.root, OTHER.root]
    with pytest.raises(HandshakeError) as caught:
        if role == "client":
            handshake(End(stranger, trusting), verifier)
        else:
            one, two = credentials(A, verifier), credentials(A, End(stranger, trusting))
            shake(one, two, (Identity.parse(A),))
    assert caught.value.outcome is not Outcome.WRONG_IDENTITY, caught.value.detail
    assert text in caught.value.detail


def test_a_client_that_is_refused_hears_what_to_check() -> None:
    """In TLS 1.3 it hears by an alert, when it believes to be done."""
    client = Session.client(credentials(A, End(OTHER.issue(A), [ISSUING.root])), (Identity.parse(B),))
    server = Session.server(credentials(B, End(ISSUING.issue(B), [ISSUING.root])))
    server.feed(client.outgoing())
    client.feed(server.outgoing())
    with pytest.raises(HandshakeError):
        server.feed(client.outgoing())
    assert client.done
    with pytest.raises(TlsError, match=r"does not accept our certificate \(unknown_ca\).*compare the root"):
        open_all(TlsRecords(client.secured.state), server.outgoing())


def test_a_server_that_is_refused_hears_what_to_check() -> None:
    client = Session.client(credentials(A, End(ISSUING.issue(A), [ISSUING.root])), (Identity.parse(B),))
    server = Session.server(credentials(B, End(OTHER.issue(B), [ISSUING.root])))
    server.feed(client.outgoing())
    with pytest.raises(HandshakeError):
        client.feed(server.outgoing())
    with pytest.raises(
        HandshakeError, match=r"does not accept our certificate \(unknown_ca\).*compare the root"
    ):
        server.feed(client.outgoing())


def test_who_may_be_an_anchor() -> None:
    assert all(map(is_authority, (ROOT.root, ISSUING.root, EXPIRED.root)))
    for issued in (ISSUING.issue(A), ISSUING.issue(A, is_ca=False)):
        assert not is_authority(issued.leaf)


@pytest.mark.parametrize("may_sign", [True, False])
def test_an_authority_may_be_restricted_to_what_is_no_signing_of_certificates(may_sign: bool) -> None:
    uses = dict.fromkeys(
        (
            "content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only",
            "key_encipherment", "digital_signature",
        ),
        False,
    )  # fmt: skip
    usage = x509.KeyUsage(key_cert_sign=may_sign, crl_sign=True, **uses)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - HOUR, now + HOUR)
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(usage, True)
        .sign(key, hashes.SHA256())
    )
    assert is_authority(certificate) is may_sign
