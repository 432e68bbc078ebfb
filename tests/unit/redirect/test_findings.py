"""What differs from what is desired becomes a finding: of which pod, in which part, and whether it can be mended."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from redirect.desired import Desired
from redirect.findings import Part, of_pods
from redirect.observe import Observed
from redirect.rt_rows import PacketCount
from redirect.unseen import Passed, Unseen
from tests.unit.redirect.test_plan import LINKS, V4, V6, captured, pod, wanted

A, B = pod(5, V4, V6), pod(6, ip_address("10.0.0.9"))
WHOLE = captured(A, B)


def found(desired: Desired, observed: Observed) -> set[tuple[Part, int | None, bool]]:
    return {(each.part, each.ifindex, each.is_mendable) for each in of_pods(desired, observed)}


def test_what_is_as_desired_gives_no_finding() -> None:
    assert not list(of_pods(wanted(A, B), WHOLE))


def test_each_finding_names_its_pod_and_part() -> None:
    broken = replace(
        WHOLE,
        attached=WHOLE.attached - {(5, "to_pod")},
        pods={address: entry for address, entry in WHOLE.pods.items() if entry.ifindex != 6},
        behind={(6, "from_pod"): "program 12 (greedy)"},
        host_addresses=frozenset({ip_address("192.0.2.1")}),
    )
    assert found(wanted(A, B), broken) == {
        (Part.PROGRAM, 5, True),
        (Part.ENTRY, 6, True),
        (Part.PROGRAM, 6, True),
        (Part.ENTRY, None, True),
    }


def test_a_pod_that_is_gone_is_found_and_cannot_be_made() -> None:
    links = {number: link for number, link in LINKS.items() if number != 6}
    assert (Part.INTERFACE, 6, False) in found(wanted(A, B), replace(WHOLE, links=links))


def test_a_pod_whose_interface_is_down_is_found() -> None:
    down = replace(WHOLE, links={**WHOLE.links, 6: replace(WHOLE.links[6], is_up=False)})
    assert found(wanted(A, B), down) == {(Part.LINK_STATE, 6, False)}


def test_a_program_that_is_left_over_is_the_nodes() -> None:
    assert (Part.PROGRAM, None, True) in found(wanted(A), WHOLE)


def test_packets_that_passed_are_those_since_the_last_proof() -> None:
    unseen = Unseen()
    unseen.proven([5, 6], WHOLE, {5: PacketCount(10, 20), 6: PacketCount(1, 1)}, 100.0)
    bare = replace(WHOLE, attached=WHOLE.attached - {(5, "from_pod")})
    # A proof that does not see it whole is none.
    unseen.proven([5, 6], bare, {5: PacketCount(13, 21), 6: PacketCount(2, 2)}, 102.0)
    assert unseen.lapsed([5, 6], bare) == (5,)
    report = unseen.report(5, "veth5", {5: PacketCount(17, 22)}, 103.5)
    assert report.startswith("veth5 (interface 5) was not guarded, for at most 3.5 s")
    assert "no more than 7 packets of its pod and 2 to it passed" in report


def test_one_packet_is_one() -> None:
    unseen = Unseen()
    unseen.proven([5], WHOLE, {5: PacketCount(10, 20)}, 100.0)
    bare = replace(WHOLE, attached=WHOLE.attached - {(5, "from_pod")})
    assert unseen.lapsed([5], bare) == (5,)
    assert "no more than 1 packet of its pod" in unseen.report(5, "veth5", {5: PacketCount(11, 20)}, 101.0)


def test_without_its_entry_or_behind_others_a_pod_is_not_guarded() -> None:
    unseen = Unseen()
    behind = replace(WHOLE, behind={(5, "to_pod"): "program 12"})
    unseen.proven([5], behind, {5: PacketCount()}, 1.0)
    without = replace(WHOLE, ifaces={})
    assert unseen.lapsed([5], without) == ()
    unseen.proven([5], WHOLE, {5: PacketCount()}, 2.0)
    assert unseen.lapsed([5], without) == (5,)
    assert unseen.lapsed([5], behind) == (5,)


def test_packets_are_added_up_once_whoever_made_the_pod_whole_again() -> None:
    unseen, bare = Unseen(), replace(WHOLE, ifaces={})
    for at, (observed, sent) in enumerate([(WHOLE, 10), (bare, 12), (bare, 15), (WHOLE, 16), (WHOLE, 90)]):
        unseen.proven([5], observed, {5: PacketCount(sent, 3 * sent)}, float(at))
    assert unseen.total == Passed(6, 18), "by somebody else: seen by the next proof"
    assert unseen.lapsed([5], bare) == (5,)
    unseen.report(5, "veth5", {5: PacketCount(91, 273)}, 6.0)
    unseen.proven([5], WHOLE, {5: PacketCount(99, 300)}, 7.0)
    assert unseen.total == Passed(7, 21), "by us: what passed after that was guarded"


def test_a_pod_that_is_let_go_and_comes_back_has_no_proof() -> None:
    unseen = Unseen()
    unseen.proven([5], WHOLE, {5: PacketCount(9, 9)}, 1.0)
    unseen.proven([], WHOLE, {5: PacketCount(9, 9)}, 2.0)
    assert unseen.lapsed([5], replace(WHOLE, ifaces={})) == ()
