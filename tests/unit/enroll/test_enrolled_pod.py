"""Whether a pod may be enrolled as asked, and what the refusal says."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agent.enroll.enrolled_pod import EnrolledPod, EnrolmentRefused, NotAnnounced, check, enrolled_pod
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey
from agent.model.address import IP, parse_ip
from agent.model.workload import Workload
from agent.state.snapshot import Snapshot
from redirect.place import Place
from tests.support import mesh

WEB = mesh.workload("web", "10.0.0.1", "fd00::1", service_account="web")
BOTH = [parse_ip("fd00::1"), parse_ip("10.0.0.1")]
POD = PodKey("apps", "web")


def place(*addresses: IP) -> Place:
    return Place(7, "veth7", addresses, b"\x02" * 6, ())


def judged(
    snapshot: Snapshot, addresses: Iterable[IP], *enrolled: EnrolledPod, pod: PodKey = POD, node: str = "n1"
) -> Workload:
    owners = {ip: each.key for each in enrolled for ip in each.addresses}
    return check(snapshot, node, "", pod, addresses, owners)


def test_a_pod_is_what_the_control_plane_says_it_is() -> None:
    pod = enrolled_pod(judged(mesh.snapshot(WEB), BOTH), place(*BOTH))
    assert str(pod.identity) == "spiffe://cluster.local/ns/apps/sa/web"
    assert (pod.key, pod.ifname, pod.addresses, pod.closed) == (POD, "veth7", tuple(BOTH), ())


@pytest.mark.parametrize(
    ("node", "name", "addresses", "says", "missing"),
    [
        ("n2", "web", ["10.0.0.1", "fd00::1"], "is on node 'n1'", Missing.WORKLOAD),
        ("n1", "web", ["10.0.0.1"], "lists 10.0.0.1, fd00::1", Missing.ADDRESS),
        ("n1", "web", ["10.0.0.9", "fd00::1"], "has 10.0.0.9", Missing.ADDRESS),
        ("n1", "web", [], "has no address", Missing.ADDRESS),
        ("n1", "nobody", ["10.0.0.1", "fd00::9"], "are those of apps/web: check the name", Missing.WORKLOAD),
    ],
)
def test_doubt_refuses_and_names_the_culprit(
    node: str, name: str, addresses: list[str], says: str, missing: Missing
) -> None:
    with pytest.raises(EnrolmentRefused, match=says) as caught:
        judged(mesh.snapshot(WEB), map(parse_ip, addresses), pod=PodKey("apps", name), node=node)
    assert "\n" not in str(caught.value) and caught.value.missing is missing
    assert not isinstance(caught.value, NotAnnounced)


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ([], "lists no pod apps/web: check the name and its manifest"),
        ([mesh.workload("web", service_account="web")], "without an address"),
    ],
)
def test_what_the_control_plane_does_not_know_yet_may_come(listed: list[Workload], says: str) -> None:
    with pytest.raises(NotAnnounced, match=says):
        judged(mesh.snapshot(*listed), BOTH)


def test_addresses_that_are_not_announced_are_closed_and_not_served() -> None:
    more = [*BOTH, parse_ip("10.0.0.50"), parse_ip("fd00::50")]
    pod = enrolled_pod(judged(mesh.snapshot(WEB), more), place(*more))
    assert pod.addresses == tuple(BOTH) and pod.place.addresses == tuple(BOTH)
    assert list(map(str, pod.closed)) == ["10.0.0.50", "fd00::50"]


def test_an_address_belongs_to_one_enrolled_pod_only() -> None:
    other = enrolled_pod(mesh.workload("old", "10.0.0.1"), place(parse_ip("10.0.0.1")))
    with pytest.raises(EnrolmentRefused, match="apps/old is enrolled with an address"):
        judged(mesh.snapshot(WEB), BOTH, other)


def test_a_pod_with_more_addresses_of_a_family_than_can_be_captured_is_refused() -> None:
    two = mesh.workload("web", "10.0.0.1", "10.0.0.2")
    with pytest.raises(EnrolmentRefused, match=r"more than one address of a family .*: 10.0.0.1, 10.0.0.2"):
        judged(mesh.snapshot(two), [parse_ip("10.0.0.1"), parse_ip("10.0.0.2")])


def test_a_host_network_pod_is_refused() -> None:
    bare = mesh.workload("web", "10.0.0.1", "fd00::1", host_network=True)
    with pytest.raises(EnrolmentRefused, match="host's network"):
        judged(mesh.snapshot(bare), BOTH)
