"""Pods on bridges: what is sent in their name carries their MAC and goes where they would send it themselves."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from ipaddress import ip_address

import pytest
from pyroute2 import IPRoute

from agent.enroll.search import search
from agent.enroll.sighting import Sighting
from agent.enroll.wish import PodKey, Where, Wish
from redirect import neighbours, netns
from redirect.host_addresses import Watch
from redirect.neighbours import NUD_PERMANENT
from redirect.place import Place
from tests.support.redirect_lab import SILENCE_S, dial
from tests.support.segment import FAR, GATEWAY, LINK, PORT, Segment, segment

pytestmark = pytest.mark.kernel
FAMILIES = pytest.mark.parametrize("family", [4, 6])
MACSPOOFCHK = """
table bridge nat {{
  chain PREROUTING {{
    type filter hook prerouting priority dstnat;
    iifname {ifname} ether saddr != {mac} drop
  }}
}}
"""
NO_FORWARDING = (
    "table inet strict { chain forward { type filter hook forward priority filter; policy drop; }; }"
)


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with segment("r", tmp_path_factory.mktemp("r"), is_flat=False) as made:
        yield made


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with segment("f", tmp_path_factory.mktemp("f"), is_flat=True) as made:
        yield made


@pytest.fixture
def node(routed: Segment) -> Iterator[Segment]:
    yield routed
    routed.capture()
    routed.nft("flush ruleset")


@pytest.fixture
def switch(flat: Segment) -> Iterator[Segment]:
    yield flat
    flat.capture()


def talks(client: socket.socket, server: socket.socket) -> bool:
    server.settimeout(5)
    client.sendall(b"to the server")
    server.sendall(b"to the client")
    return server.recv(64) == b"to the server" and client.recv(64) == b"to the client"


def echoes(client: socket.socket) -> bool:
    client.sendall(b"hello")
    return client.recv(64) == b"hello"


def is_reached_outbound(node: Segment, pod: str, address: str) -> bool:
    """Whether what is dialled in a pod's name arrives, and answers come back."""
    with closing(node.dial_as(pod, address, PORT)) as connection:
        return echoes(connection)


def is_reached_inbound(node: Segment, client: object, pod: str, family: int) -> bool:
    """Whether a connection to a captured pod arrives at the proxy, and its answers do."""
    path = node.outside if client == "outside" else node.pods[str(client)].netns
    with closing(dial(path, node.pods[pod].addresses[family], PORT)) as connection:
        accepted, _ = node.listeners["plaintext"].accept()
        with accepted:
            return talks(connection, accepted)


@FAMILIES
def test_a_bridge_that_checks_source_macs_lets_captured_pods_pass(node: Segment, family: int) -> None:
    pod = node.pods["p1"]
    node.nft(MACSPOOFCHK.format(ifname=pod.ifname, mac=node.mac(pod.netns, "eth0")))
    node.capture("p1")
    assert is_reached_outbound(node, "p1", FAR[family])
    assert is_reached_outbound(node, "p1", node.pods["p3"].addresses[family])
    assert is_reached_inbound(node, "outside", "p1", family)
    assert is_reached_inbound(node, "p3", "p1", family)


@FAMILIES
def test_pods_of_one_bridge_talk_where_the_node_forwards_nothing(node: Segment, family: int) -> None:
    """Frames between them are switched: FORWARD never met them, and does not meet them now."""
    node.nft(NO_FORWARDING)
    node.capture("p1", "p2")
    for client, server in (("p1", "p2"), ("p2", "p1")):
        with closing(node.dial_as(client, node.pods[server].addresses[family], PORT)) as connection:
            accepted, _ = node.listeners["plaintext"].accept()
            with accepted:
                assert talks(connection, accepted)
    assert is_reached_inbound(node, "p3", "p1", family)
    # What is routed meets it, as without capture.
    with pytest.raises(TimeoutError):
        node.dial_as("p1", FAR[family], PORT, SILENCE_S)


@FAMILIES
def test_a_neighbour_that_only_the_proxy_speaks_to_is_asked_for(node: Segment, family: int) -> None:
    node.nft(NO_FORWARDING)
    node.capture("p2")
    address = node.pods["p3"].addresses[family]
    forget(node, "p2")
    with node.answering():
        assert is_reached_outbound(node, "p2", address)


def forget(node: Segment, pod: str) -> None:
    """`ip neigh flush all` in a pod, and in what the programs know of it."""
    with netns.entered(node.pods[pod].netns), IPRoute() as ip:
        for row in ip.get_neighbours():
            ip.neigh("del", family=row["family"], dst=row.get("dst"), ifindex=row["ifindex"])
    maps = node.redirection._maps
    for key in maps.neighbours():
        maps.delete_neighbour(key)


@FAMILIES
def test_on_a_flat_bridge_the_gateway_is_another_machine(switch: Segment, family: int) -> None:
    switch.capture("p1", "p2")
    near = LINK[family].format(GATEWAY).partition("/")[0]
    for address in (FAR[family], near, switch.pods["p3"].addresses[family]):
        with switch.answering():
            assert is_reached_outbound(switch, "p1", address)
    assert is_reached_inbound(switch, "outside", "p1", family)
    assert is_reached_inbound(switch, "p3", "p1", family)
    with closing(switch.dial_as("p1", switch.pods["p2"].addresses[family], PORT)) as connection:
        accepted, _ = switch.listeners["plaintext"].accept()
        with accepted:
            assert talks(connection, accepted)


NEW_MAC = "02:00:00:00:0b:0b"


class Look:
    """What the agent does at each turn: looks only at pods of which something changed."""

    def __init__(self, node: Segment, pod: str) -> None:
        self._node = node
        key = PodKey("demo", pod)
        self._wishes = {key: Wish(key, Where(netns=str(node.pods[pod].netns)))}
        self._known: Mapping[PodKey, Sighting] = {}
        self.again()

    def again(self, doubted: Collection[int] = ()) -> Place:
        captured = [self._node.locate(key.name).ifindex for key in self._wishes]
        with netns.entered(self._node.node):
            self._known = search(
                self._node.redirection, self._wishes, self._known, captured, doubted
            ).sightings
        (sighting,) = self._known.values()
        assert sighting.place is not None and not sighting.place.refusal, sighting
        return sighting.place


@FAMILIES
def test_a_bridge_that_changes_its_mac_is_followed(node: Segment, family: int) -> None:
    node.capture("p1")
    look = Look(node, "p1")
    before = node.mac(node.node, "br0")
    node.set_link(node.node, "br0", address=NEW_MAC)
    try:
        node.apply(look.again())
        # By the gateway, and to the node itself: it has a service on the bridge's address.
        assert is_reached_outbound(node, "p1", FAR[family])
        with pytest.raises(ConnectionRefusedError):
            node.dial_as("p1", LINK[family].format(GATEWAY).partition("/")[0], PORT)
    finally:
        node.set_link(node.node, "br0", address=before)


def test_a_pod_that_changes_its_mac_is_heard_and_followed(node: Segment) -> None:
    pod = node.pods["p1"]
    node.capture("p1")
    look, before = Look(node, "p1"), node.mac(pod.netns, "eth0")
    with netns.entered(node.node), closing(Watch()) as watch:
        node.set_link(pod.netns, "eth0", address=NEW_MAC)
        try:
            now = look.again(watch.read().elsewhere)
            assert now.mac.hex(":") == NEW_MAC
            node.apply(now)
            node.nft(MACSPOOFCHK.format(ifname=pod.ifname, mac=NEW_MAC))
            assert is_reached_outbound(node, "p1", FAR[4])
        finally:
            node.set_link(pod.netns, "eth0", address=before)


def test_a_pod_that_is_put_on_another_bridge_is_followed(node: Segment) -> None:
    look = Look(node, "p1")
    first = look.again()
    assert first.bridge is not None
    with netns.entered(node.node), IPRoute() as ip:
        ip.link("add", ifname="br1", kind="bridge", address=NEW_MAC)
        try:
            (other,) = ip.link_lookup(ifname="br1")
            for family, length in ((4, 24), (6, 64)):
                gateway = LINK[family].format(GATEWAY).partition("/")[0]
                ip.addr("add", index=other, address=gateway, prefixlen=length)
            for master in (other, 0, first.bridge.ifindex):
                node.set_link(node.node, node.pods["p1"].ifname, master=master)
                place = look.again()
                assert (place.bridge.ifindex if place.bridge else 0) == master
        finally:
            ip.link("del", index=other)
    assert place == first


def test_a_gateway_that_changes_its_mac_is_heard_where_it_says_so(switch: Segment) -> None:
    switch.capture("p1")
    assert is_reached_outbound(switch, "p1", FAR[4])
    before = switch.mac(switch.outside, "eth0")
    switch.sysctl(switch.outside, "net/ipv4/conf/eth0/arp_notify", "1")
    switch.sysctl(switch.outside, "net/ipv6/conf/eth0/ndisc_notify", "1")
    try:
        switch.set_link(switch.outside, "eth0", address=NEW_MAC)
        for family in FAR:
            assert is_reached_outbound(switch, "p1", FAR[family])
    finally:
        switch.set_link(switch.outside, "eth0", address=before)


def test_a_neighbour_that_changes_its_mac_silently_is_found_again(switch: Segment) -> None:
    """Captured traffic tells the pod's own kernel nothing: somebody has to ask."""
    switch.capture("p1")
    targets = {"outside": FAR[4], "p3": switch.pods["p3"].addresses[6]}
    with switch.answering():
        for address in targets.values():
            assert is_reached_outbound(switch, "p1", address)
    paths = {"outside": switch.outside, "p3": switch.pods["p3"].netns}
    before = {name: switch.mac(path, "eth0") for name, path in paths.items()}
    try:
        for number, path in enumerate(paths.values()):
            switch.sysctl(path, "net/ipv4/conf/eth0/arp_notify", "0")
            switch.sysctl(path, "net/ipv6/conf/eth0/ndisc_notify", "0")
            switch.set_link(path, "eth0", address=f"02:00:00:00:0c:{number:02x}")
        with switch.answering(verifies=True):
            for address in targets.values():
                assert is_reached_outbound(switch, "p1", address)
    finally:
        for name, path in paths.items():
            switch.set_link(path, "eth0", address=before[name])


def test_what_a_pod_was_told_by_hand_is_believed(switch: Segment) -> None:
    """A permanent entry for an address that nobody answers for."""
    pod, server = switch.pods["p1"], switch.pods["p3"]
    mac = switch.mac(server.netns, "eth0")
    with netns.entered(server.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="eth0")
        switch.sysctl(server.netns, "net/ipv4/conf/eth0/arp_ignore", "8")
        ip.addr("add", index=index, address="10.66.0.99", prefixlen=24)
    with netns.entered(pod.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="eth0")
        ip.neigh("add", dst="10.66.0.99", lladdr=mac, ifindex=index, state=NUD_PERMANENT)
    switch.capture("p1")
    assert is_reached_outbound(switch, "p1", "10.66.0.99")
    with netns.entered(switch.node):
        switch.redirection.neighbourhood.verify()
    with netns.entered(pod.netns):
        assert neighbours.known(index)[ip_address("10.66.0.99")].is_permanent


def test_a_gateway_that_nobody_answers_for_is_named(switch: Segment) -> None:
    with netns.entered(switch.pods["p2"].netns), IPRoute() as ip:
        ip.route("replace", dst="default", gateway="10.66.0.200")
        try:
            place = switch.locate("p2")
            assert "its gateway 10.66.0.200 does not answer on br0" in place.refusal
        finally:
            ip.route("replace", dst="default", gateway="10.66.0.1")


def test_a_pod_with_two_gateways_is_refused(switch: Segment) -> None:
    with netns.entered(switch.pods["p2"].netns), IPRoute() as ip:
        ip.route("add", dst="10.96.0.0/12", gateway="10.66.0.11")
        try:
            assert "more than one gateway (10.66.0.1, 10.66.0.11)" in switch.locate("p2").refusal
        finally:
            ip.route("del", dst="10.96.0.0/12")


def test_nothing_is_left_of_the_neighbours_of_a_pod_that_goes(switch: Segment) -> None:
    switch.capture("p1", "p2")
    maps = switch.redirection._maps
    kept, gone = (switch.locate(name).ifindex for name in ("p1", "p2"))
    assert {key.ifindex for key in maps.neighbours()} == {kept, gone}
    switch.capture("p1")
    assert {key.ifindex for key in maps.neighbours()} == {kept}
