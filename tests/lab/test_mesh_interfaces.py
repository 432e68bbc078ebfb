"""Pods whose interface is not the usual one: what the proxy sends for them keeps to its MTU and to its queue."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyroute2 import DiagSocket, IPRoute

from agent.cli.pinned import open_pinned
from agent.lab import probes
from redirect.netns import entered, path_of
from tests.support.labmesh import BULK_PORT, World
from tests.support.labtraffic import PATIENCE_S, until
from tests.support.links import resize, silent_link, small_link
from tests.support.queues import limited, limited_ingress

pytestmark = [pytest.mark.kernel, pytest.mark.parametrize("version", [4, 6])]
MEGABYTES = 4 << 20
ECHO_PORT = 7007
TCP_ESTABLISHED, INFO, ENDS = 1, 2, ("idiag_src", "idiag_dst")


@contextmanager
def sized(world: World, version: int, **sizes: int) -> Iterator[None]:
    """Captured pods with these MTUs, set while they are; `client_a=1400` is pod client-a."""
    pods = {world.pod(name.replace("_", "-")): mtu for name, mtu in sizes.items()}
    try:
        for pod, mtu in pods.items():
            resize(world, pod, mtu)
            until_sized(world, pod.name, version, mtu)
        yield
    finally:
        for pod in pods:
            resize(world, pod, 1500)
            until_sized(world, pod.name, version, 1500)


def entry(world: World, pod: str, version: int) -> dict[str, object]:
    """What the programs know about one of a pod's addresses."""
    node, address = world.pod(pod).node, world.address(pod, version)
    with open_pinned(world.mesh.instance(node), world.mesh.run_dir(node)) as maps:
        return next(dict(value) for key, value in maps["pods"].entries() if str(key["address"]) == address)


def until_sized(world: World, pod: str, version: int, mtu_bytes: int) -> None:
    """Until the kernel side has followed."""
    headers = 40 if version == 4 else 60
    wanted = {"mtu_bytes": mtu_bytes, "mss_bytes": mtu_bytes - headers}
    until(lambda: wanted.items() <= entry(world, pod, version).items(), f"{pod} has {wanted}")


def exchange(world: World, client: str, server: str, version: int) -> None:
    """Megabytes in both directions, all of them right."""
    if (server, BULK_PORT) not in world.applications:
        world.serve(server, "bulk", BULK_PORT)
    with entered(world.pod(client).netns):
        probes.exchange(world.address(server, version), BULK_PORT, PATIENCE_S, MEGABYTES, MEGABYTES)


@pytest.mark.parametrize("server", ["server-b", "outsider-b"], ids=["hbone", "passthrough"])
def test_a_small_pods_transfers_pass_a_path_that_drops_without_a_word(
    world: World, server: str, version: int
) -> None:
    with sized(world, version, client_a=1400), silent_link(world, 1400):
        exchange(world, "client-a", server, version)


def test_transfers_to_a_small_pod_pass_as_well(world: World, version: int) -> None:
    with sized(world, version, server_b=1400), silent_link(world, 1400):
        exchange(world, "client-a", "server-b", version)
        exchange(world, "outsider-a", "server-b", version)


def test_a_small_and_a_large_pod_agree_on_what_the_small_one_takes(world: World, version: int) -> None:
    sizes = {"client_a": 1400, "server_a": 9000, "server_b": 9000, "client_b": 1400}
    with sized(world, version, **sizes), silent_link(world, 1400):
        exchange(world, "client-a", "server-b", version)
        exchange(world, "server-b", "client-a", version)
        exchange(world, "client-a", "server-a", version)


def test_a_live_connection_survives_that_its_pod_becomes_smaller(world: World, version: int) -> None:
    """Other pods are as large as before, so only what leaves in this one's name is too large."""
    pod = world.pod("client-a")
    world.serve("outsider-b", "echo", ECHO_PORT)
    too_big = world.counters("node-a").get(("from_net_side", "TOO_BIG"), 0)
    try:
        with world.dial("client-a", world.address("outsider-b", version), ECHO_PORT) as sock:
            assert echoed(sock, b"before" * 10_000)
            resize(world, pod, 1400)
            until_sized(world, "client-a", version, 1400)
            assert echoed(sock, b"after!" * 10_000)
        assert world.counters("node-a")["from_net_side", "TOO_BIG"] > too_big
    finally:
        resize(world, pod, 1500)
        until_sized(world, "client-a", version, 1500)
        world.applications.pop(("outsider-b", ECHO_PORT)).close()


def echoed(sock: socket.socket, text: bytes) -> bool:
    sock.sendall(text)
    with sock.makefile("rb") as answers:
        return answers.read(len(text)) == text


def test_large_pods_use_what_they_have(world: World, version: int) -> None:
    """In new connections: between these two no other test leaves a tunnel of the size they had."""
    with sized(world, version, client_b=9000, server_a=9000), small_link(world, 9000):
        exchange(world, "client-b", "server-a", version)
        with world.talk("client-b", world.address("server-a", version)) as talk:
            talk.say()
            tcp_info = talk.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 20)
            assert int.from_bytes(tcp_info[16:20], sys.byteorder) > 8800  # tcpi_snd_mss
            for node in ("node-a", "node-b"):
                assert min(tunnel_segments(world, node, version)) > 8800


def test_what_is_delivered_goes_through_the_queue_of_a_pods_interface(world: World, version: int) -> None:
    """A bandwidth limit set and taken away while the pod is captured; what it sends is another queue's business."""
    pod = world.pod("server-b")
    unlimited = delivered(world, version)
    with entered(world.node("node-b").netns), IPRoute() as ip:
        (ifindex,) = ip.link_lookup(ifname=pod.ifname)
        with limited(ifindex, "2gbit") as passed:
            until(lambda: entry(world, pod.name, version)["flags"] == "ENROLLED|QUEUED", "the queue is seen")
            before = passed()
            queued = delivered(world, version)
            assert passed() - before > 2 * MEGABYTES
    until(
        lambda: entry(world, pod.name, version)["flags"] == "ENROLLED", "it is seen that the queue has gone"
    )
    for counts, used, idle in ((unlimited, "TO_POD", "TO_QUEUE"), (queued, "TO_QUEUE", "TO_POD")):
        assert counts[used] > 0
        assert counts[idle] == 0
    assert delivered(world, version)["TO_QUEUE"] == 0


def test_what_leaves_in_a_pods_name_goes_through_its_ingress_limit(world: World, version: int) -> None:
    """The other half of a bandwidth limit, an ifb behind the `ingress` qdisc: what re-enters there meets it."""
    pod = world.pod("client-a")
    with entered(world.node("node-a").netns), IPRoute() as ip:
        (ifindex,) = ip.link_lookup(ifname=pod.ifname)
        with limited_ingress(ifindex, "2gbit") as passed:
            for server in ("server-b", "outsider-b"):
                before = passed()
                exchange(world, "client-a", server, version)
                assert passed() - before > MEGABYTES
            before = passed()
            exchange(world, "outsider-b", "client-a", version)
            assert passed() - before > MEGABYTES


def delivered(world: World, version: int) -> dict[str, int]:
    """Packets into server-b by exit of from_pod_side, for transfers that others open to it and that it opens itself."""
    before = world.counters("node-b")
    exchange(world, "client-a", "server-b", version)
    exchange(world, "server-b", "outsider-a", version)
    after = world.counters("node-b")
    exits = [("from_pod_side", name) for name in ("TO_POD", "TO_QUEUE")]
    return {name: after.get((program, name), 0) - before.get((program, name), 0) for program, name in exits}


def tunnel_segments(world: World, node: str, version: int) -> list[int]:
    """The largest segments that the proxy sends in its tunnels between the large pods: `ss -ti` in ztun-net."""
    ends = {world.address("client-b", version), world.address("server-a", version)}
    with entered(path_of(f"{world.mesh.instance(node)}-net")), DiagSocket() as sockets:
        rows = [
            row
            for family in (socket.AF_INET, socket.AF_INET6)  # a dual-stack listener accepts IPv4 as IPv6
            for row in sockets.get_sock_stats(family=family, states=1 << TCP_ESTABLISHED, extensions=INFO)
        ]
    found = [row for row in rows if {row[end].removeprefix("::ffff:") for end in ENDS} == ends]
    return [row.get("INET_DIAG_INFO")["tcpi_snd_mss"] for row in found]
