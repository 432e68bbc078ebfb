"""Certificates in hand that peers would refuse, as findings of the pods that show them."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from agent.identity import own_check
from agent.identity.bundle import Issued
from agent.model.identity import Identity
from agent.proof.findings import Link
from agent.watch.certificates_check import CertificatesCheck
from tests.support.certs import TestCA

CA, OTHER = TestCA(), TestCA()
WEB, DB = (Identity("cluster.local", "apps", name) for name in ("web", "db"))


def issued(identity: Identity, anchor: TestCA) -> Issued:
    signed = CA.issue(str(identity))
    end = signed.leaf.not_valid_after_utc.timestamp()
    return Issued(identity, signed.key, tuple(signed.chain), (anchor.root,), 0.0, end)


def test_each_pod_of_a_certificate_that_peers_would_refuse_is_named() -> None:
    held: dict[Identity, Issued] = {WEB: issued(WEB, OTHER), DB: issued(DB, CA)}
    pods = [
        SimpleNamespace(key=f"apps/{name}", identity=identity)
        for name, identity in (("web-1", WEB), ("web-2", WEB), ("db", DB), ("new", Identity("td", "a", "b")))
    ]
    check = CertificatesCheck(SimpleNamespace(get=held.get), lambda: pods, time.time)  # type: ignore[arg-type]
    for _ in range(2):
        found = asyncio.run(check())
        assert [(each.link, each.pod) for each in found] == [
            (Link.CERTIFICATE, "apps/web-1"),
            (Link.CERTIFICATE, "apps/web-2"),
        ]
        assert (
            found[0].reason.startswith(f"peers would refuse the certificate of {WEB}: ") and found[0].remedy
        )
    held[WEB] = issued(WEB, CA)
    assert asyncio.run(check()) == []


def test_verdicts_go_with_the_last_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Identity] = []
    monkeypatch.setattr(
        own_check, "refusal", lambda credentials, now: asked.append(credentials.identity) or ""
    )
    pods = [SimpleNamespace(key="apps/web", identity=WEB)]
    certificate = issued(WEB, CA)
    keeper = SimpleNamespace(get=lambda identity: certificate)
    check = CertificatesCheck(keeper, lambda: pods, time.time)  # type: ignore[arg-type]
    for served in ([pods[0]], [pods[0]], [], [pods[0]]):
        pods[:] = served
        assert asyncio.run(check()) == []
    assert asked == [WEB, WEB]
