"""Certificates that SPIFFE forbids: refused by either end of a handshake and when a CA sends them for our own."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from cryptography import x509

from agent.identity.bundle import read_answer
from agent.identity.faults import Fault
from agent.identity.handshake import HandshakeError
from agent.identity.signer import SigningError
from agent.identity.svid import NotAnSvid, identity_in
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from tests.support.certs import Issued, TestCA, credentials, pem
from tests.support.handshakes import shake

A = "spiffe://cluster.local/ns/a/sa/a"
B = "spiffe://cluster.local/ns/b/sa/b"
CA = TestCA()
CALLS = json.loads((Path(__file__).parents[2] / "vectors/ca/calls.json").read_text())["calls"]


def signs(*key_usages: str, is_ca: bool | None = None) -> Issued:
    return CA.issue(A, key_usages=("digital_signature", *key_usages), is_ca=is_ca)


FORBIDDEN = [
    (
        "two identities",
        CA.issue(A, more_uris=[B]),
        Fault.BAD_CERTIFICATE,
        "has 2 URI names; SPIFFE allows one",
    ),
    ("one twice", CA.issue(A, more_uris=[A]), Fault.BAD_CERTIFICATE, "has 2 URI names"),
    (
        "an identity and another URI",
        CA.issue(A, more_uris=["https://a/"]),
        Fault.BAD_CERTIFICATE,
        "https://a/",
    ),
    ("another URI first", CA.issue("https://a/", more_uris=[A]), Fault.BAD_CERTIFICATE, "has 2 URI names"),
    ("CA:TRUE", CA.issue(A, is_ca=True), Fault.BAD_CERTIFICATE, "CA:TRUE"),
    ("CA:TRUE without its usage", signs(is_ca=True), Fault.BAD_CERTIFICATE, "CA:TRUE"),
    ("keyCertSign", signs("key_cert_sign"), Fault.BAD_CERTIFICATE, "may sign certificates (keyCertSign)"),
    ("keyCertSign, CA:FALSE", signs("key_cert_sign", is_ca=False), Fault.BAD_CERTIFICATE, "(keyCertSign)"),
    ("cRLSign", signs("crl_sign"), Fault.BAD_CERTIFICATE, "may sign revocations (cRLSign)"),
    ("a query", CA.issue(A + "?x"), Fault.BAD_CERTIFICATE, "no query"),
    ("a fragment", CA.issue(A + "#x"), Fault.BAD_CERTIFICATE, "no query and no fragment"),
    ("a user", CA.issue(A.replace("//", "//u@")), Fault.BAD_CERTIFICATE, "no user"),
    ("a port", CA.issue(A.replace("local", "local:1")), Fault.BAD_CERTIFICATE, "no user and no port"),
    ("an escape", CA.issue(A + "%61"), Fault.BAD_CERTIFICATE, "no percent-escapes"),
    ("a dot segment", CA.issue(A.replace("ns/a", "ns/../a")), Fault.BAD_CERTIFICATE, "neither '.' nor '..'"),
    ("an empty segment", CA.issue(A.replace("ns/a", "ns/")), Fault.BAD_CERTIFICATE, "not empty"),
    ("a slash at the end", CA.issue(A + "/"), Fault.BAD_CERTIFICATE, "not empty"),
    ("too long", CA.issue(A + "a" * 2048), Fault.BAD_CERTIFICATE, "SPIFFE allows 2048"),
    ("no path", CA.issue("spiffe://cluster.local"), Fault.BAD_CERTIFICATE, "want spiffe://TRUST_DOMAIN/ns/"),
    ("no URI", CA.issue(None), Fault.WRONG_IDENTITY, "has no SPIFFE identity"),
    ("no SPIFFE URI", CA.issue("https://a/"), Fault.WRONG_IDENTITY, "has no SPIFFE identity"),
]
NAMES = [row[0] for row in FORBIDDEN]
ROWS = [row[1:] for row in FORBIDDEN]


@pytest.mark.parametrize(("issued", "fault", "said"), ROWS, ids=NAMES)
@pytest.mark.parametrize("role", ["client", "server"])
def test_no_peer_gets_in_with_it(issued: Issued, fault: Fault, said: str, role: str) -> None:
    """The trust domain and the identity asked for are right, as far as these certificates name one."""
    shown, honest = credentials(CA, A, issued=issued), credentials(CA, B)
    ends = (shown, honest) if role == "client" else (honest, shown)
    with pytest.raises(HandshakeError, match=re.escape(said)) as caught:
        shake(*ends, (Identity.parse(A), Identity.parse(B)))
    wanted = Outcome.WRONG_IDENTITY if fault is Fault.WRONG_IDENTITY else Outcome.TLS_FAILED
    assert (caught.value.fault, caught.value.outcome) == (fault, wanted)
    assert caught.value.detail.startswith("the peer's certificate ")


@pytest.mark.parametrize(("issued", "fault", "said"), ROWS, ids=NAMES)
def test_no_workload_of_ours_gets_it(issued: Issued, fault: Fault, said: str) -> None:
    answer = [pem(issued.leaf).decode(), CA.root_pem.decode()]
    with pytest.raises(SigningError, match=re.escape(said)) as caught:
        read_answer(answer, Identity.parse(A), issued.key, time.time())
    assert A in str(caught.value) and "look at what the CA issues" in str(caught.value)


LEAVES = {call["name"]: call["answer"]["leaf"] for call in CALLS if "leaf" in call.get("answer", {})}


@pytest.mark.parametrize("name", [name for name in LEAVES if "extensions" in LEAVES[name]])
def test_what_istiod_issues_passes(name: str) -> None:
    """Names, constraints and usages of recorded certificates, under a CA of ours."""
    extensions = LEAVES[name]["extensions"]
    (uri,) = extensions["subjectAltName"]["value"]
    issued = CA.issue(
        uri,
        is_ca=extensions["basicConstraints"]["value"]["ca"],
        key_usages=extensions["keyUsage"]["value"],
    )
    assert str(identity_in(issued.leaf)) == uri
    peer = credentials(CA, uri, issued=issued)
    client, server = shake(peer, credentials(CA, B), (Identity.parse(B),))
    assert str(server.secured.peer) == uri and client.done


def test_other_names_beside_the_uri_are_allowed() -> None:
    issued = CA.issue(A)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("a.example"), x509.UniformResourceIdentifier(A), x509.RFC822Name("a@a.example")]
    )
    assert identity_in(CA.with_names(issued, names)) == Identity.parse(A)


NAME_OF_BITS = bytes.fromhex("3011 a40f 300d 310b 3009 0603550403 03020061".replace(" ", ""))
"""Alternative names: a directory's, whose common name is a BIT STRING."""


@pytest.mark.parametrize("names", [b"\x30\x05", NAME_OF_BITS], ids=["cut", "a name of bits"])
def test_extensions_that_cannot_be_read_are_a_reason(names: bytes) -> None:
    broken = CA.with_names(CA.issue(A), x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, names))
    with pytest.raises(NotAnSvid, match="has extensions that cannot be read") as caught:
        identity_in(broken)
    assert caught.value.fault is Fault.BAD_CERTIFICATE
