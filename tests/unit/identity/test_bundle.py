"""What a CA may answer, and each way in which its answer is not used."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from agent.identity.bundle import Issued, read_answer
from agent.identity.csr import make_request
from agent.identity.signer import SigningError
from agent.model.identity import Identity
from tests.support.certs import Issued as Signed
from tests.support.certs import TestCA, pem
from tests.support.xds import MeshCA

WEB = Identity("cluster.local", "apps", "web")
NOW = float(int(time.time()))  # certificates have whole seconds
CA = MeshCA()
KEY, CSR = make_request(WEB)


def answer(
    uri: str | None = str(WEB), start_s: float = -120, end_s: float = 3600, **options: bool
) -> list[str]:
    return CA.certify(CSR, uri, not_before=NOW + start_s, not_after=NOW + end_s, **options)


def authority(
    name: str, key: object, issuer: x509.Certificate | None, signer: object, *, is_ca: bool | None
) -> x509.Certificate:
    """A certificate that may sign others, or may not; `is_ca` None leaves the extension out."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), True)
    return builder.sign(signer, hashes.SHA256())


def leaf_under(issuer: x509.Certificate, signer: object) -> x509.Certificate:
    now = datetime.now(UTC)
    uri = x509.UniformResourceIdentifier(str(WEB))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([uri]), True)
        .sign(signer, hashes.SHA256())
    )


def text(*certificates: x509.Certificate) -> str:
    return b"".join(pem(c) for c in certificates).decode()


def test_leaf_and_root() -> None:
    issued = read_answer(answer(), WEB, KEY, NOW)
    assert len(issued.chain) == 1 and issued.roots == (CA.root,)
    assert issued.not_before == pytest.approx(NOW - 120, abs=1)
    assert issued.not_after == pytest.approx(NOW + 3600, abs=1)


def test_the_last_element_may_hold_several_roots() -> None:
    other = MeshCA()
    leaf, root = answer()
    issued = read_answer([leaf, other.root_pem.decode() + root + root], WEB, KEY, NOW)
    assert issued.roots == (other.root, CA.root), "all of them, each once, whichever signed our own"


@pytest.mark.parametrize("make_key", [lambda: ec.generate_private_key(ec.SECP384R1()), lambda: RSA_KEY])
def test_intermediates_are_shown_to_peers_and_roots_are_not(make_key: object) -> None:
    root_key = make_key()
    root = authority("root", root_key, None, root_key, is_ca=True)
    middle_key = ec.generate_private_key(ec.SECP256R1())
    middle = authority("middle", middle_key, root, root_key, is_ca=True)
    leaf = leaf_under(middle, middle_key)
    issued = read_answer([text(leaf), text(middle), text(root)], WEB, KEY, NOW)
    assert issued.chain == (leaf, middle) and issued.roots == (root,)


RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("is_ca", [False, None], ids=["said to be none", "not said to be one"])
def test_an_issuer_that_is_no_authority_is_refused(is_ca: bool | None) -> None:
    root_key, middle_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = authority("root", root_key, None, root_key, is_ca=True)
    middle = authority("middle", middle_key, root, root_key, is_ca=is_ca)
    with pytest.raises(SigningError, match="does not chain to the 1 root"):
        read_answer([text(leaf_under(middle, middle_key)), text(middle), text(root)], WEB, KEY, NOW)


ROOT, OTHER = TestCA(), TestCA("other.example")
ISSUING = TestCA(parent=ROOT, name="issuing CA")


def answer_of(issued: Signed, *above: TestCA, roots: list[x509.Certificate]) -> tuple[list[str], object]:
    """What a CA sends with a leaf it has made, and the leaf's key."""
    return [text(c) for c in (*issued.chain, *(ca.root for ca in above))] + [text(*roots)], issued.key


@pytest.mark.parametrize(
    "above", [(), (ISSUING,), (ISSUING, ROOT)], ids=["alone", "with its issuer", "with all"]
)
@pytest.mark.parametrize(
    "anchors", [[ISSUING.root], [OTHER.root, ISSUING.root, ROOT.root]], ids=["the issuer", "several"]
)
def test_an_issuing_ca_is_an_anchor(above: tuple[TestCA, ...], anchors: list[x509.Certificate]) -> None:
    chain, key = answer_of(ISSUING.issue(str(WEB)), *above, roots=anchors)
    issued = read_answer(chain, WEB, key, NOW)
    assert issued.roots == tuple(anchors) and len(issued.chain) == 1 + len(above)


def test_a_leaf_among_the_roots_is_no_anchor_and_named() -> None:
    leaf = OTHER.issue("spiffe://other.example/ns/x/sa/y").leaf
    chain, key = answer_of(ISSUING.issue(str(WEB)), roots=[leaf, ISSUING.root])
    issued = read_answer(chain, WEB, key, NOW)
    assert issued.roots == (ISSUING.root,)
    assert issued.not_anchors == ("spiffe://other.example/ns/x/sa/y",)


def test_what_ends_first_on_the_way_to_the_anchor_ends_the_certificate() -> None:
    soon = datetime.now(UTC) + timedelta(minutes=10)
    ending = TestCA(parent=ROOT, name="ending CA", not_after=soon)
    for roots in ([ending.root], [ROOT.root]):
        chain, key = answer_of(ending.issue(str(WEB)), ending, roots=roots)
        issued = read_answer(chain, WEB, key, NOW)
        assert issued.not_after == int(soon.timestamp()) and "ending CA" in issued.ended_by
    chain, key = answer_of(ISSUING.issue(str(WEB)), ISSUING, ending, roots=[ISSUING.root])
    issued = read_answer(chain, WEB, key, NOW)
    assert issued.not_after > soon.timestamp() and not issued.ended_by, "it rests on nothing that ends"


PAST = datetime.now(UTC) - timedelta(hours=1)


@pytest.mark.parametrize(
    ("issued", "roots", "said"),
    [
        (
            ISSUING.issue(str(WEB)),
            [ISSUING.issue(str(WEB)).leaf],
            "none of the 1 root(s) in the CA's answer is a CA",
        ),
        (
            ISSUING.issue(str(WEB), is_ca=True),
            [ISSUING.root],
            "is that of a CA (basic constraints CA:TRUE): peers would refuse it",
        ),
        (ROOT.issue(str(WEB)), [ISSUING.root], "does not chain to the 1 root(s)"),
        (ISSUING.issue(str(WEB)), [ISSUING.renewed(PAST)], "does not chain to the 1 root(s)"),
    ],
    ids=[
        "only a leaf as root",
        "an authority as leaf",
        "the root above the anchor",
        "an anchor that expired",
    ],
)
def test_answers_that_rest_on_nothing(issued: Signed, roots: list[x509.Certificate], said: str) -> None:
    chain, key = answer_of(issued, roots=roots)
    with pytest.raises(SigningError, match=re.escape(said)):
        read_answer(chain, WEB, key, NOW)


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ([], "answer is empty"),
        (answer()[:1], "has a certificate but no root"),
        (["rubbish", CA.root_pem.decode()], "certificate 1 in the CA's answer is not a PEM certificate"),
        ([answer()[0], "rubbish"], "last element (the roots) in the CA's answer is not"),
        ([answer()[0], ""], "last element (the roots) in the CA's answer is not"),
        ([answer()[0], "", CA.root_pem.decode()], "certificate 2 in the CA's answer is not"),
        (["-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"] * 2, "is not a PEM certificate"),
        ([answer()[0], MeshCA().root_pem.decode()], "does not chain to the 1 root(s) it sent"),
        (
            answer("spiffe://cluster.local/ns/apps/sa/other"),
            "certifies spiffe://cluster.local/ns/apps/sa/other",
        ),
        (answer("spiffe://other.example/ns/apps/sa/web"), "certifies spiffe://other.example/ns/apps/sa/web"),
        (answer("https://apps.example/web"), "has no SPIFFE identity: 'https://apps.example/web' is not"),
        (answer(None), "no URI among its names"),
        (answer(is_for_us=False), "belongs to another key"),
        (answer(start_s=60), "60 s from now: is the clock here behind the CA's?"),
        (answer(start_s=-3600, end_s=-1), "1 s ago: is the clock here ahead of the CA's?"),
    ],
)
def test_answers_that_are_not_used(chain: list[str], said: str) -> None:
    with pytest.raises(SigningError, match=re.escape(said)):
        read_answer(chain, WEB, KEY, NOW)


def test_the_key_is_not_printed() -> None:
    issued = read_answer(answer(), WEB, KEY, NOW)
    assert isinstance(issued, Issued)
    assert (
        "key" not in repr(issued) and "Certificate" not in repr(issued) and str(WEB.namespace) in repr(issued)
    )
