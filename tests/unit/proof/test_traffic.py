"""Which movements of a pod's counters mean that it is cut off, and which do not."""

from __future__ import annotations

import pytest

from agent.proof.findings import Finding, Link
from agent.proof.traffic import Counts, Subject, TrafficWatch

POD = "demo/web"
SUBJECT = Subject(POD)


def play(*rounds: Counts, every_s: float = 2.0, error: str = "") -> list[Finding]:
    """The findings of the last round."""
    watch, found = TrafficWatch(), list[Finding]()
    for number, counts in enumerate(rounds):
        found = watch.update(number * every_s, {SUBJECT: counts}, {SUBJECT: error})
    return found


def test_captured_and_accepted_is_well() -> None:
    assert play(Counts(), Counts(captured_outbound=9, accepted_outbound=9), Counts(40, 0, 38)) == []


def test_captured_and_accepted_by_nobody_is_found() -> None:
    (finding,) = play(Counts(7, accepted_outbound=7), Counts(9, 0, 7), Counts(10, 0, 7))
    assert (finding.link, finding.pod) == (Link.LOOKUP, POD)
    assert "no worker accepts any" in finding.reason


def test_a_quiet_pod_is_well() -> None:
    assert play(*[Counts(7, 7, 7, 7)] * 20) == []


@pytest.mark.parametrize("captured", [1, 2])
def test_a_few_syns_on_their_way_prove_nothing(captured: int) -> None:
    assert play(Counts(), Counts(captured), Counts(captured)) == []


def test_one_success_ends_it() -> None:
    rounds = [Counts(), Counts(5), Counts(9), Counts(12, 0, 1)]
    assert play(*rounds[:3]) != []
    assert play(*rounds) == []


def test_a_short_scan_of_half_open_connections_is_not_believed() -> None:
    assert play(Counts(), Counts(captured_inbound=500), Counts(captured_inbound=500)) == []
    (finding,) = play(*[Counts(captured_inbound=20 * n) for n in range(7)])
    assert (finding.link, finding.pod, finding.is_remark) == (Link.LOOKUP, POD, True)


def test_tunnels_that_all_fail_are_found_with_the_last_reason() -> None:
    (finding,) = play(
        Counts(), Counts(tunnels_failed=2), Counts(tunnels_failed=3), error="certificate expired"
    )
    assert finding.link is Link.PEER
    assert finding.reason == "every HBONE connection it needs fails (the last one: certificate expired)"
    assert play(Counts(), Counts(tunnels_failed=2), Counts(tunnels_made=1, tunnels_failed=9)) == []


def test_handshakes_that_all_fail_are_found() -> None:
    (finding,) = play(*[Counts(handshakes_failed=2 * n) for n in range(7)])
    assert finding.reason.startswith("every mutual TLS handshake with it fails")
    assert not finding.is_remark


def test_handshakes_of_strangers_that_all_fail_are_a_remark() -> None:
    (finding,) = play(*[Counts(strangers_failed=99 * n) for n in range(7)], error="of somebody else")
    assert finding.is_remark and "somebody else" not in finding.reason
    assert play(*[Counts(strangers_failed=99 * n, handshakes_done=n) for n in range(7)]) == []


def test_what_is_long_past_is_over() -> None:
    rounds = [Counts(), Counts(5), *[Counts(9)] * 30]
    assert play(*rounds[:3]) != []
    assert play(*rounds) == []


def test_a_replaced_worker_takes_counts_with_it_and_nothing_is_found() -> None:
    assert play(Counts(50, 0, 50), Counts(51, 0, 20), Counts(52, 0, 21)) == []


def test_a_pod_that_left_is_forgotten() -> None:
    watch = TrafficWatch()
    watch.update(0.0, {SUBJECT: Counts()}, {})
    watch.update(2.0, {}, {})
    assert watch.update(4.0, {SUBJECT: Counts(99)}, {}) == []


def test_what_works_over_one_address_hides_nothing_of_the_other() -> None:
    watch, found = TrafficWatch(), list[Finding]()
    for number in range(4):
        counts = {
            Subject(POD, "10.77.1.11"): Counts(tunnels_made=number),
            Subject(POD, "fd77:1::11"): Counts(tunnels_failed=2 * number),
        }
        found = watch.update(number * 2.0, counts, {})
    assert [finding.reason for finding in found] == ["every HBONE connection it needs fails as fd77:1::11"]
