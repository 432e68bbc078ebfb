"""The ledger of broken links: since when, what is new, what is over, which link of a pod comes first."""

from __future__ import annotations

from agent.proof.findings import Finding, Ledger, Link, first_broken

DEVICE = Finding(Link.INNER_DEVICE, "", "device mo is down", "it is set up again at the next proof")
LISTENER = Finding(Link.LISTENER, "", "nobody accepts on 15008")
GONE = Finding(Link.INTERFACE, "demo/web", "its interface is gone")
EXPIRED = Finding(Link.CERTIFICATE, "demo/web", "its certificate has expired")


def test_a_finding_stands_since_it_was_first_seen() -> None:
    ledger = Ledger()
    assert ledger.update([GONE], 100.0) == ([GONE], [])
    assert ledger.update([GONE, EXPIRED], 102.0) == ([EXPIRED], [])
    assert {(each.finding, each.since) for each in ledger.standing} == {(GONE, 100.0), (EXPIRED, 102.0)}


def test_a_finding_that_comes_back_stands_anew() -> None:
    ledger = Ledger()
    ledger.update([GONE], 100.0)
    assert ledger.update([], 102.0) == ([], [GONE])
    assert ledger.standing == ()
    ledger.update([GONE], 104.0)
    assert [each.since for each in ledger.standing] == [104.0]


def test_a_remark_is_no_broken_link_and_hides_none() -> None:
    ledger = Ledger()
    ledger.update([Finding(Link.CONTROL_PLANE, GONE.pod, "a scan", is_remark=True), GONE], 100.0)
    assert [each.finding for each in first_broken(ledger.standing)] == [GONE]
    assert len(ledger.standing) == 2


def test_the_first_broken_link_of_the_node_and_of_each_pod() -> None:
    ledger = Ledger()
    other = Finding(Link.PEER, "demo/client", "every handshake fails")
    ledger.update([EXPIRED, LISTENER, other, GONE, DEVICE], 1.0)
    assert [each.finding for each in first_broken(ledger.standing)] == [DEVICE, other, GONE]


def test_a_finding_reads_as_whose_what_and_what_to_do() -> None:
    assert str(DEVICE) == "inner device: device mo is down; it is set up again at the next proof"
    assert str(GONE) == "pod demo/web: interface: its interface is gone"
