"""The one line of `ztun status`, and every reason that makes it something else than READY."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.admin.readiness import CertificateFact, Facts, Reason, duration, judge

WELL = Facts(
    form="pure",
    generation="7f3a9c",
    pods_captured=2,
    pods_wanted=2,
    xds="synced",
    certificates=(CertificateFact("spiffe://a", 43080.0), CertificateFact("spiffe://b", 50000.0)),
    workers_alive=2,
    workers_wanted=2,
)


def test_a_well_agent_says_so_in_one_line() -> None:
    health = judge(WELL)
    assert health.line == "READY gen=7f3a pods=2/2 xds=synced certs=2 min=11h58m drops/s=0 form=pure"
    assert health.reasons == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"xds": "stale", "xds_error": "connection refused"}, "control plane: stale: connection refused"),
        ({"workers_alive": 1}, "workers: 1 of 2 alive"),
        ({"pods_captured": 1}, "pods: 1 of 2 served"),
        (
            {"certificates": (CertificateFact("spiffe://a", None, "CA refuses"),)},
            "no certificate for spiffe://a",
        ),
        ({"certificates": (CertificateFact("spiffe://a", -1.0, "CA away"),)}, "has expired"),
        ({"certificates": (CertificateFact("spiffe://a", 60.0, "CA away"),)}, "ends in 1m0s: CA away"),
        (
            {"certificates": (CertificateFact("spiffe://a", 7200.0, "", "'CN=issuing CA'"),)},
            "ends in 2h0m with the authority 'CN=issuing CA' above it",
        ),
        ({"problems": (Reason("interface", "veth of demo/x is gone"),)}, "veth of demo/x is gone"),
    ],
)
def test_each_trouble_is_named(change: dict[str, object], says: str) -> None:
    health = judge(replace(WELL, **change))  # type: ignore[arg-type]
    assert health.state == "DEGRADED"
    assert any(says in reason for reason in health.reasons), health.reasons


def test_a_renewal_that_fails_early_is_not_an_alarm() -> None:
    assert (
        judge(replace(WELL, certificates=(CertificateFact("spiffe://a", 40000.0, "CA away"),))).state
        == "READY"
    )


def test_an_authority_that_ends_in_months_is_not_an_alarm() -> None:
    far = CertificateFact("spiffe://a", 90 * 86400.0, "", "'CN=issuing CA'")
    assert judge(replace(WELL, certificates=(far,))).state == "READY"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m59s"), (43080, "11h58m"), (90061, "1d1h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_reason_of_a_dead_control_plane_is_one_paragraph() -> None:
    why = "10.0.0.1:15012: connection refused: is it running, is the port right? (UNAVAILABLE: gRPC's words)"
    facts = replace(
        WELL,
        xds="stale",
        xds_error=f"control plane {why}",
        problems=(
            Reason("other", f"the control plane was not told which pods are captured: control plane {why}"),
        ),
        certificates=(CertificateFact("spiffe://a", None, f"spiffe://a: CA {why}"),),
    )
    reasons = judge(facts).reasons
    assert len(reasons) == 3 and sum(why in reason for reason in reasons) == 1
    assert f"control plane: stale: control plane {why}" in reasons
    assert "no certificate for spiffe://a: spiffe://a: see the control plane's reason" in reasons
