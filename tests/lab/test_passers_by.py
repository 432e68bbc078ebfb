"""Interfaces of others on a real node: the one that leads to a wished pod is not taken for one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from agent.enroll import passers_by, search
from agent.enroll.sighting import Sighting
from agent.enroll.wish import PodKey, Where, Wish
from redirect import locate, netns, rtnetlink

pytestmark = pytest.mark.kernel
POD = PodKey("apps", "one")


@dataclass
class Node:
    """A namespace that is the node, and `pods`, others that pods are in; `pods[0]` is wished for, and found."""

    netns: Path
    pods: list[Path]

    def veth(self, ifname: str, pod: Path) -> int:
        """The node's end of a new veth into a pod."""
        with pod.open("rb") as inside, netns.entered(self.netns), IPRoute() as ip:
            ip.link("add", ifname=ifname, kind="veth", peer={"ifname": "eth0", "net_ns_fd": inside.fileno()})
            return int(ip.link_lookup(ifname=ifname)[0])

    def wish(self) -> tuple[dict[PodKey, Wish], dict[PodKey, Sighting]]:
        path = self.pods[0]
        with netns.entered(self.netns):
            nsid = rtnetlink.nsid(path)
            place = replace(locate.locate(netns=path), refusal="", nsid=nsid, namespace=namespace(path))
        return {POD: Wish(POD, Where(netns=str(path)))}, {POD: Sighting(place, frozenset(), nsid=nsid)}


def namespace(path: Path) -> netns.NamespaceId:
    with netns.entered(path):
        return netns.own_id()


@pytest.fixture
def node() -> Iterator[Node]:
    names = [f"pb{os.getpid()}{letter}" for letter in "nab"]
    try:
        own, *pods = [netns.create(name) for name in names]
        yield Node(own, pods)
    finally:
        for name in names:
            netns.remove(name)


def concern(node: Node, ifindex: int, wishes: dict[PodKey, Wish], known: dict[PodKey, Sighting]) -> bool:
    with netns.entered(node.netns):
        passed = passers_by.look([ifindex], wishes, known)
        assert passed.present == ({ifindex} & rtnetlink.links().keys())
    return passed.concern


def test_only_what_leads_to_a_wished_pod_concerns_anybody(node: Node) -> None:
    node.veth("first", node.pods[0])
    wishes, known = node.wish()
    assert not concern(node, node.veth("other", node.pods[1]), wishes, known)
    assert not concern(node, 4711, wishes, known)
    with node.pods[0].open("rb") as inside, netns.entered(node.netns), IPRoute() as ip:
        ip.link("add", ifname="second", kind="veth", peer={"ifname": "eth1", "net_ns_fd": inside.fileno()})
        second = int(ip.link_lookup(ifname="second")[0])
    assert concern(node, second, wishes, known)


def test_while_a_pod_is_looked_for_it_may_be_any(node: Node) -> None:
    other = node.veth("other", node.pods[1])
    wishes = {POD: Wish(POD, Where(netns=str(node.pods[0])))}
    assert concern(node, other, wishes, {})
    assert concern(node, other, wishes, {POD: Sighting()})


def test_a_path_that_leads_to_another_namespace_by_now_is_seen_with_whatever_comes_next(node: Node) -> None:
    """The old one lives on with its interface: nothing else tells of it."""
    node.veth("first", node.pods[0])
    wishes, known = node.wish()
    other = node.veth("other", node.pods[1])
    assert not concern(node, other, wishes, known)
    descriptor = os.open(node.pods[0], os.O_RDONLY)
    try:
        netns.remove(node.pods[0].name)
        netns.create(node.pods[0].name)
        assert concern(node, other, wishes, known)
    finally:
        os.close(descriptor)
    assert search.namespace_device() == os.stat(netns.OWN).st_dev
