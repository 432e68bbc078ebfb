"""What peers would say of our own certificates: as in a real handshake, and asked no more often than needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from agent.identity import own_check
from agent.identity.bundle import Issued
from agent.identity.own_check import OwnChecks
from agent.model.identity import Identity
from tests.support.certs import HOUR, TestCA
from tests.support.certs import Issued as Signed

WEB = Identity("cluster.local", "apps", "web")
ROOT = TestCA()
ISSUING = TestCA(parent=ROOT, name="issuing CA")
OTHER = TestCA("other.example")
NOW = datetime.now(UTC)


def issued(signed: Signed, *roots: x509.Certificate, identity: Identity = WEB) -> Issued:
    leaf = signed.leaf
    start, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    return Issued(identity, signed.key, tuple(signed.chain), roots, start, end)


def under(ca: TestCA, *above: TestCA, **options: object) -> Signed:
    signed = ca.issue(str(WEB), **options)  # type: ignore[arg-type]
    return Signed(signed.key, [*signed.chain, *(each.root for each in above)])


def refusal(certificate: Issued, at: datetime = NOW) -> str:
    return OwnChecks().refusal(certificate, at.timestamp())


@pytest.mark.parametrize(
    "certificate",
    [
        issued(under(ROOT), ROOT.root),
        issued(under(ISSUING), ISSUING.root),
        issued(under(ISSUING, ISSUING), ROOT.root),
        issued(under(ISSUING, ISSUING, ROOT), OTHER.root, ISSUING.root),
    ],
    ids=["root", "issuing CA", "intermediate", "several anchors"],
)
def test_what_peers_accept(certificate: Issued) -> None:
    assert refusal(certificate) == ""


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (issued(under(ROOT), OTHER.root), "neither among the trust anchors"),
        (issued(under(ISSUING), ROOT.root), "neither among the trust anchors"),
        (issued(under(ROOT), ROOT.issue(str(WEB)).leaf), "there are none"),
        (issued(ROOT.expired(str(WEB)), ROOT.root), "it expired at"),
        (issued(under(ROOT, not_before=NOW + HOUR / 2), ROOT.root), "not valid before"),
        (issued(under(ROOT, usages=("server",)), ROOT.root), "extended key usage"),
        (issued(under(ROOT, usages=("client",)), ROOT.root), "extended key usage"),
        (issued(under(ROOT, is_ca=True), ROOT.root), "is that of a CA"),
        (issued(ROOT.issue("spiffe://cluster.local/ns/apps/sa/other"), ROOT.root), "the server presents"),
        (issued(ROOT.issue(None), ROOT.root), "no SPIFFE identity"),
        (issued(ROOT.issue("https://x/", more_uris=[str(WEB)]), ROOT.root), "has 2 URI names"),
    ],
    ids=["other root", "no intermediate", "leaf as root", "expired", "too early", "server only", "client only",
         "authority", "other identity", "no name", "two names"],
)  # fmt: skip
def test_what_peers_refuse(certificate: Issued, text: str) -> None:
    assert text in refusal(certificate)


ENDING = TestCA(parent=ROOT, name="ending CA", not_after=NOW + HOUR / 2)


@pytest.mark.parametrize(
    "certificate",
    [
        issued(under(ROOT, not_after=NOW + HOUR / 2), ROOT.root),
        issued(under(ENDING, ENDING), ROOT.root),
        issued(under(ENDING), ENDING.root),
    ],
    ids=["its own end", "that of its issuer", "that of its anchor"],
)
def test_time_is_the_callers(certificate: Issued) -> None:
    assert refusal(certificate) == ""
    assert "it expired at" in refusal(certificate, NOW + HOUR / 2 + timedelta(seconds=1))
    assert "not valid before" in refusal(certificate, NOW - 2 * HOUR)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times for which OpenSSL was asked."""
    times: list[float] = []
    real = own_check.refusal

    def counted(credentials: object, now: float) -> str:
        times.append(now)
        return real(credentials, now)  # type: ignore[arg-type]

    monkeypatch.setattr(own_check, "refusal", counted)
    return times


def test_an_answer_is_kept_until_a_certificate_begins_or_ends(asked: list[float]) -> None:
    certificate, checks, now = issued(under(ENDING, ENDING), ROOT.root), OwnChecks(), NOW.timestamp()
    assert not checks.is_known(certificate, now)
    for seconds in range(0, 1790, 2):
        assert checks.refusal(certificate, now + seconds) == ""
    assert len(asked) == 1 and checks.is_known(certificate, now)
    assert "it expired at" in checks.refusal(certificate, now + 2000)
    assert checks.refusal(certificate, now) == "", "the clock was set back"
    asked.clear()
    for seconds in range(1790, 1820):
        text = checks.refusal(certificate, now + seconds)
        assert ("it expired at" in text) is (now + seconds >= int(now) + 1801)
    assert len(asked) <= 3


def test_an_anchor_that_ends_ends_the_answer_too() -> None:
    certificate, checks, now = issued(under(ENDING), ENDING.root), OwnChecks(), NOW.timestamp()
    assert checks.refusal(certificate, now) == ""
    assert "it expired at" in checks.refusal(certificate, now + 1900)


def test_another_certificate_or_bundle_is_asked_for_anew(asked: list[float]) -> None:
    checks, now, signed = OwnChecks(), NOW.timestamp(), under(ROOT)
    assert checks.refusal(issued(signed, ROOT.root), now) == ""
    assert "neither among" in checks.refusal(issued(signed, OTHER.root), now)
    kept = issued(under(ROOT), ROOT.root)
    assert checks.refusal(kept, now) == ""
    checks.keep_only({WEB})
    assert checks.is_known(kept, now) and len(asked) == 3
    checks.keep_only(set())
    assert not checks.is_known(kept, now)
