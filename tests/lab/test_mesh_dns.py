"""DNS of pods (`--dns-capture`): real queries out of a pod, answered by the mesh or by the pod's own name server."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import dns.flags
import dns.rcode
import pytest

from tests.support.labmesh import OWN_VIP, PORT, SILENCE_S, VIP4, VIP6, World, running
from tests.support.labtraffic import until
from tests.support.pod_dns import Asked, PodNameServer, asked_of, texts

pytestmark = pytest.mark.kernel
MANY = [f"10.1.{number}.1" for number in range(200)]
ZONE = {
    ("far.test.", "A"): ["192.0.2.1"],
    ("far.test.", "AAAA"): ["2001:db8::1"],
    ("again.test.", "A"): ["192.0.2.2"],
    ("text.test.", "TXT"): ['"said"'],
    ("many.test.", "A"): MANY,
    ("own.demo.svc.cluster.local.", "A"): ["192.0.2.66"],
}
ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: auto, namespace: demo}}
spec:
  hosts: [auto.example.test, "*.wild.test"]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: {port}}}]
  endpoints: [{{address: {address}}}]
"""
ENTRY_RANGES = {"A": "240.240.0.0/16", "AAAA": "2001:2::/48"}
SERVERS = ("outsider-b", "outsider-a")
"""On the other node, and on the pod's own."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    flags = {"dns-capture": "true", "workers": "2"}
    with running("d", tmp_path_factory.mktemp("dns"), flags=flags) as made:
        yield made


@pytest.fixture(scope="module")
def servers(world: World) -> Iterator[dict[str, PodNameServer]]:
    with (
        PodNameServer(world.pod("outsider-a").netns, ZONE) as near,
        PodNameServer(world.pod("outsider-b").netns, ZONE) as far,
    ):
        yield {"outsider-a": near, "outsider-b": far}


@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("version", [4, 6])
def test_names_of_the_mesh_are_answered_in_the_servers_name(
    world: World, servers: dict[str, PodNameServer], version: int, over_tcp: bool
) -> None:
    pod, server = world.pod("client-a").netns, world.address("outsider-b", version)
    before = len(servers["outsider-b"].asked)
    for name in ("server.demo.svc.cluster.local.", "server.", "server.demo."):
        for kind, address in (("A", VIP4), ("AAAA", VIP6)):
            answer = asked_of(pod, server, name, kind, over_tcp=over_tcp)
            assert texts(answer) == [address]
            assert answer.flags & dns.flags.AA
    own = asked_of(pod, server, "own.demo.svc.cluster.local.", "AAAA", over_tcp=over_tcp)
    assert (own.rcode(), texts(own)) == (dns.rcode.NOERROR, []), "it is there, without such an address"
    assert texts(asked_of(pod, server, "own.demo.svc.cluster.local.", over_tcp=over_tcp)) == [OWN_VIP]
    assert len(servers["outsider-b"].asked) == before, "nobody else was asked"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("where", SERVERS)
def test_other_names_are_asked_of_the_pods_server_in_its_name(
    world: World, servers: dict[str, PodNameServer], where: str, version: int
) -> None:
    pod, server, heard = world.pod("client-a").netns, world.address(where, version), servers[where]
    for over_tcp in (False, True):
        heard.asked.clear()
        assert texts(asked_of(pod, server, "far.test.", over_tcp=over_tcp)) == ["192.0.2.1"]
        answer = asked_of(pod, server, "far.test.", "AAAA", over_tcp=over_tcp)
        assert texts(answer) == ["2001:db8::1"]
        assert not answer.flags & dns.flags.AA
        assert texts(asked_of(pod, server, "text.test.", "TXT", over_tcp=over_tcp)) == ['"said"']
        nowhere = asked_of(pod, server, "nowhere.test.", over_tcp=over_tcp)
        assert nowhere.rcode() == dns.rcode.NXDOMAIN
        me, transport = world.address("client-a", version), "tcp" if over_tcp else "udp"
        kinds = [("far.test.", "A"), ("far.test.", "AAAA"), ("text.test.", "TXT"), ("nowhere.test.", "A")]
        assert heard.asked == [Asked(me, transport, *each) for each in kinds]


def test_an_answer_is_given_again_to_the_same_pod_alone(
    world: World, servers: dict[str, PodNameServer]
) -> None:
    heard, server = servers["outsider-b"], world.address("outsider-b")
    heard.asked.clear()
    for pod in ("client-a", "client-b"):
        # Each of the two workers asks once at most.
        for _ in range(10):
            assert texts(asked_of(world.pod(pod).netns, server, "again.test.")) == ["192.0.2.2"]
    by_pod = [each.client for each in heard.asked]
    for pod in ("client-a", "client-b"):
        assert 1 <= by_pod.count(world.address(pod)) <= 2


def test_a_host_without_an_address_is_reached_by_the_one_that_it_is_given(
    world: World, servers: dict[str, PodNameServer]
) -> None:
    pod, server = world.pod("client-a").netns, world.address("outsider-b")
    entry = ENTRY.format(port=PORT, address=world.address("outsider-b"))

    def told(kind: str) -> list[str]:
        """What a pod is answered. Asked, not read from /status: each worker knows of it in its own time."""
        return until(
            lambda: texts(asked_of(pod, server, "auto.example.test.", kind)), "the host has an address"
        )

    with world.manifest("entry", entry):
        given = {kind: told(kind) for kind in ENTRY_RANGES}
        for kind, (address,) in given.items():
            assert ip_address(address) in ip_network(ENTRY_RANGES[kind])
        assert world.ask("client-a", given["A"][0], 80) == world.address("client-a")
        wild = asked_of(pod, server, "x.wild.test.")
        assert wild.rcode() == dns.rcode.NXDOMAIN, "hosts that are many have no address: others are asked"
    until(lambda: "demo/auto.example.test" not in world.status()["services"], "it is gone")
    with world.manifest("entry", entry):
        assert told("A") == given["A"], "by the same address"


def test_what_is_too_large_is_asked_for_again_over_tcp(
    world: World, servers: dict[str, PodNameServer]
) -> None:
    pod, server = world.pod("client-a").netns, world.address("outsider-b")
    assert asked_of(pod, server, "many.test.").flags & dns.flags.TC
    assert texts(asked_of(pod, server, "many.test.", over_tcp=True)) == sorted(MANY)


def test_pods_outside_of_the_mesh_ask_as_before(world: World, servers: dict[str, PodNameServer]) -> None:
    answer = asked_of(world.pod("spare-a").netns, world.address("outsider-b"), "own.demo.svc.cluster.local.")
    assert texts(answer) == ["192.0.2.66"]


def test_queries_are_counted_by_ztunnels_names(world: World, servers: dict[str, PodNameServer]) -> None:
    asked_of(world.pod("client-a").netns, world.address("outsider-b"), "far.test.")
    asked = {"request_query_type": "A", "request_protocol": "udp", "source_canonical_service": "client"}

    def counted(name: str) -> bool:
        return world.metric("node-a", name, **asked) >= 1

    until(lambda: counted("istio_dns_requests_total"), "queries are counted")
    until(lambda: counted("istio_dns_upstream_requests_total"), "those that were forwarded too")
    until(lambda: counted("istio_dns_upstream_request_duration_seconds_count"), "and how long it took")


def test_without_a_worker_queries_wait_or_pass(world: World, servers: dict[str, PodNameServer]) -> None:
    pod, server, name = (
        world.pod("client-a").netns,
        world.address("outsider-b"),
        "own.demo.svc.cluster.local.",
    )
    world.kill_all("node-a")
    with pytest.raises(TimeoutError):
        asked_of(pod, server, name, timeout_s=SILENCE_S)
    world.mesh.flags["dns-fail"] = "open"
    world.restart("node-a")
    assert texts(asked_of(pod, server, name)) == [OWN_VIP]
    world.kill_all("node-a")
    assert texts(asked_of(pod, server, name)) == ["192.0.2.66"], "what its own server says"
    world.restart("node-a")
    assert texts(asked_of(pod, server, name)) == [OWN_VIP]
