"""What people read when a certificate is not accepted: each error by OpenSSL's own number."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from OpenSSL._util import lib

from agent.identity.verify_words import WORDS, not_accepted
from tests.support.certs import TestCA

A = "spiffe://cluster.local/ns/a/sa/a"
CA = TestCA()
LEAF = CA.issue(A).leaf

NUMBERS = {
    2: "UNABLE_TO_GET_ISSUER_CERT",
    6: "UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY",
    7: "CERT_SIGNATURE_FAILURE",
    9: "CERT_NOT_YET_VALID",
    10: "CERT_HAS_EXPIRED",
    18: "DEPTH_ZERO_SELF_SIGNED_CERT",
    19: "SELF_SIGNED_CERT_IN_CHAIN",
    20: "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    21: "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    23: "CERT_REVOKED",
    25: "PATH_LENGTH_EXCEEDED",
    26: "INVALID_PURPOSE",
    32: "KEYUSAGE_NO_CERTSIGN",
    39: "KEYUSAGE_NO_DIGITAL_SIGNATURE",
    34: "UNHANDLED_CRITICAL_EXTENSION",
    47: "PERMITTED_VIOLATION",
    48: "EXCLUDED_VIOLATION",
    79: "INVALID_CA",
}


NOT_IN_CRYPTOGRAPHY = {66, 67, 68}
"""Of x509_vfy.h (EE_KEY_TOO_SMALL, CA_KEY_TOO_SMALL, CA_MD_TOO_WEAK), without a name in Python."""


def test_the_numbers_are_openssls() -> None:
    assert WORDS.keys() - NOT_IN_CRYPTOGRAPHY == NUMBERS.keys()
    assert {number: getattr(lib, f"X509_V_ERR_{name}") for number, name in NUMBERS.items()} == {
        number: number for number in NUMBERS
    }


@pytest.mark.parametrize("number", sorted(WORDS))
def test_every_sentence_says_whose_certificate_and_what_is_wrong(number: int) -> None:
    text = not_accepted(number, LEAF, 0, [CA.root])
    assert text.startswith(f"the peer's certificate ({A}) is not accepted: ") and "\n" not in text
    above = not_accepted(number, CA.root, 1, [CA.root])
    assert above.startswith(
        "the peer's certificate is not accepted for the authority 'CN=root of cluster.local,O=cluster.local'"
    )


def test_an_error_without_words_is_named_by_its_number() -> None:
    assert "verify error 4711" in not_accepted(4711, LEAF, 0, [])


def test_a_strangers_names_write_nothing_on_a_terminal_and_are_cut() -> None:
    hostile = TestCA("\x1b]0;owned\x07\n", name="x" * 20)
    text = not_accepted(20, hostile.issue(A).leaf, 0, [TestCA(name=f"n{i}").root for i in range(9)])
    assert text.isprintable() and len(text) < 900
    assert "6 more" in text
    long = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "z" * 64)] * 9)
    assert len(re.findall("z", not_accepted(20, renamed(long), 1, []))) < 250


def renamed(name: x509.Name) -> x509.Certificate:
    class Named:
        subject = issuer = name

    return Named()  # type: ignore[return-value]
