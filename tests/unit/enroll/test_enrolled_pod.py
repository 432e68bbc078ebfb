"""Whether a pod may be enrolled as asked, and what the refusal says."""

from __future__ import annotations

import pytest

from agent.enroll.enrolled_pod import EnrolmentRefused, check, enrolled_pod, recognise, trouble
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey
from agent.model.address import IP, parse_ip
from redirect.locate import Place
from tests.support import mesh

WEB = mesh.workload("web", "10.0.0.1", "fd00::1", service_account="web")
BOTH = [parse_ip("fd00::1"), parse_ip("10.0.0.1")]
POD = PodKey("apps", "web")


def place(*addresses: IP) -> Place:
    return Place(7, "veth7", addresses, b"\x02" * 6, ())


def test_a_pod_is_what_the_control_plane_says_it_is() -> None:
    workload = check(mesh.snapshot(WEB), "n1", POD, BOTH, [])
    pod = enrolled_pod(workload, place(*BOTH))
    assert str(pod.identity) == "spiffe://cluster.local/ns/apps/sa/web"
    assert (pod.key, pod.ifname, pod.addresses) == (POD, "veth7", tuple(BOTH))


@pytest.mark.parametrize(
    ("node", "name", "addresses", "says"),
    [
        ("n1", "nobody", ["10.0.0.1", "fd00::1"], "lists no pod apps/nobody"),
        ("n2", "web", ["10.0.0.1", "fd00::1"], "is on node 'n1'"),
        ("n1", "web", ["10.0.0.1"], "lists 10.0.0.1, fd00::1"),
        ("n1", "web", ["10.0.0.9", "fd00::1"], "has 10.0.0.9"),
        ("n1", "web", [], "has no address"),
    ],
)
def test_doubt_refuses_and_names_the_culprit(node: str, name: str, addresses: list[str], says: str) -> None:
    with pytest.raises(EnrolmentRefused, match=says) as caught:
        check(mesh.snapshot(WEB), node, PodKey("apps", name), map(parse_ip, addresses), [])
    assert "\n" not in str(caught.value)


def test_an_address_belongs_to_one_enrolled_pod_only() -> None:
    other = enrolled_pod(mesh.workload("old", "10.0.0.1"), place(parse_ip("10.0.0.1")))
    with pytest.raises(EnrolmentRefused, match="apps/old is enrolled with an address"):
        check(mesh.snapshot(WEB), "n1", POD, BOTH, [other])


def test_a_host_network_pod_is_refused() -> None:
    bare = mesh.workload("web", "10.0.0.1", "fd00::1", host_network=True)
    with pytest.raises(EnrolmentRefused, match="host's network"):
        check(mesh.snapshot(bare), "n1", POD, BOTH, [])


def test_pins_are_recognised_only_when_every_address_is_one_pods_of_this_node() -> None:
    snapshot = mesh.snapshot(WEB, mesh.workload("far", "10.0.0.2", node="n2"))
    assert recognise(snapshot, "n1", "", BOTH) == WEB
    assert recognise(snapshot, "n1", "", [parse_ip("10.0.0.2")]) is None, "another node's"
    assert recognise(snapshot, "n1", "", [parse_ip("10.0.0.1"), parse_ip("10.0.0.2")]) is None, "two pods'"
    assert recognise(snapshot, "n1", "", [parse_ip("10.0.0.3")]) is None, "nobody's"


def test_a_captured_pod_that_the_mesh_no_longer_agrees_about_is_in_trouble_by_name() -> None:
    pod = enrolled_pod(WEB, place(*BOTH))
    assert trouble(mesh.snapshot(WEB), pod) is None
    for snapshot, missing in (
        (mesh.snapshot(), Missing.WORKLOAD),
        (mesh.snapshot(mesh.workload("web", "10.0.0.1", "fd00::1", service_account="x")), Missing.WORKLOAD),
        (mesh.snapshot(mesh.workload("web", "10.0.0.1", service_account="web")), Missing.ADDRESS),
    ):
        found = trouble(snapshot, pod)
        assert found is not None
        assert (found.pod, found.missing) == (POD, missing)
