"""Every way a connection can take through the mesh, with real pods, and what both ends see of it."""

from __future__ import annotations

import socket

import pytest

from agent.lab import probes
from agent.lab.capture import LinkCapture
from redirect.netns import entered, path_of
from tests.support import path_mtu
from tests.support.labmesh import (
    BANNER_PORT,
    BULK_PORT,
    HOST_VIP,
    NODE_PORT,
    OWN_VIP,
    PORT,
    PROBES,
    VIP4,
    VIP6,
    World,
)
from tests.support.labtraffic import PATIENCE_S, until
from tests.support.links import small_link

pytestmark = pytest.mark.kernel

BURST = 250
CLIENT = "spiffe://cluster.local/ns/demo/sa/client"
SERVER = "spiffe://cluster.local/ns/demo/sa/server"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("server", ["server-a", "server-b"])
def test_a_captured_connection_keeps_its_address_and_proves_both_identities(
    world: World, server: str, version: int
) -> None:
    here, there = world.log("node-a"), world.log(f"node-{server[-1]}")
    with world.talk("client-a", world.address(server, version)) as talk:
        seen, own = talk.say()["client"], talk.address
    assert seen.rpartition(":")[0].strip("[]") == world.address("client-a", version)
    line = here.line('direction="outbound"', f"src.addr={own}")
    for part in (f'src.identity="{CLIENT}"', f'dst.identity="{SERVER}"', f'dst.workload="{server}"'):
        assert part in line
    line = there.line('direction="inbound"', f'dst.workload="{server}"')
    assert f'src.identity="{CLIENT}"' in line and f'dst.identity="{SERVER}"' in line


def test_the_tunnels_of_both_ends_are_listed(world: World) -> None:
    world.ask("client-a", world.address("server-b"))
    here = [(row["direction"], row["identity"], row["peer"]) for row in world.tunnels("node-a")]
    there = [(row["direction"], row["identity"], row["peer"]) for row in world.tunnels("node-b")]
    assert ("outbound", CLIENT, SERVER) in here
    assert ("inbound", SERVER, CLIENT) in there


def test_between_the_nodes_there_is_nothing_but_tls(world: World) -> None:
    with LinkCapture(world.node("node-a").netns, b"attack-at-dawn") as capture:
        for version in (4, 6):
            with world.talk("client-a", world.address("server-b", version)) as talk:
                talk.say("attack-at-dawn")
    report = capture.report()
    assert report.tls_records and not report.other_segments and not report.marker_seen and not report.dropped


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_service_is_resolved_by_the_agent(world: World, vip: str) -> None:
    log = world.log("node-a")
    version = 6 if ":" in vip else 4
    with world.talk("client-a", vip, 80) as talk:
        answer, own = talk.say(), talk.address
    assert answer["client"].rpartition(":")[0].strip("[]") == world.address("client-a", version)
    line = log.line('direction="outbound"', f"src.addr={own}")
    assert 'dst.service="server.demo.svc.cluster.local"' in line and ":15008" in line


@pytest.mark.parametrize("client", ["client-a", "client-b"])
def test_a_service_only_the_host_knows_is_translated_by_the_host(world: World, client: str) -> None:
    """The proxy dials the VIP in the pod's name, the host's DNAT finds server-a, and the answer finds back."""
    log = world.log("node-a")
    seen = world.ask(client, HOST_VIP, 80)
    assert seen == world.address(client)
    assert 'dst.workload="server-a"' in log.line('direction="inbound"', f"src.addr={world.address(client)}:")


@pytest.mark.parametrize("client", ["client-a", "client-b", "outsider-a", "outsider-b"])
def test_a_node_port_reaches_an_enrolled_pod(world: World, client: str) -> None:
    before = len(world.application("server-a").clients)
    world.ask(client, str(world.node("node-a").addresses[0]), NODE_PORT)
    assert len(world.application("server-a").clients) == before + 1


@pytest.mark.parametrize("vip", [OWN_VIP, HOST_VIP])
def test_a_pod_that_calls_its_own_service_lands_on_itself(world: World, vip: str) -> None:
    with world.talk("server-a", vip, 80) as talk:
        assert talk.say()["server"] == f"{world.address('server-a')}:{PORT}"


def test_a_server_may_speak_first(world: World) -> None:
    for server in ("server-a", "server-b"):
        world.serve(server, "banner", BANNER_PORT)
        with entered(world.pod("client-a").netns):
            words = probes.first_words(world.address(server), BANNER_PORT, 5.0)
        assert words["banner"].encode() == probes.BANNER


def test_a_burst_of_connections_is_served_whole(world: World) -> None:
    """More at once than one tunnel connection takes."""
    socks = []
    try:
        with entered(world.pod("client-a").netns):
            for _ in range(BURST):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex((world.address("server-b"), PORT))
                socks.append(sock)
        for number, sock in enumerate(socks):
            sock.settimeout(PATIENCE_S)
            sock.sendall(b"burst %d\n" % number)
        for number, sock in enumerate(socks):
            assert f'"text": "burst {number}"'.encode() in sock.recv(4096)
    finally:
        for sock in socks:
            sock.close()


def serve_bulk(world: World, pod: str) -> None:
    """The bulk server as a process of its own, once: its work must not slow the client's."""
    if f"bulk-{pod}" not in {name for name, _, _ in world.lab.journal.processes()}:
        argv = [*PROBES, "bulk", "--port", str(BULK_PORT)]
        world.lab.processes.start_ready(f"bulk-{pod}", world.pod(pod).netns, argv)


@pytest.mark.parametrize(
    ("client", "server"), [("client-a", "server-b"), ("client-a", "outsider-b")], ids=["hbone", "passthrough"]
)
def test_64_mib_each_way_arrive_byte_by_byte_with_half_close(world: World, client: str, server: str) -> None:
    size = str(64 << 20)
    serve_bulk(world, server)
    process = world.probe(
        client,
        "exchange",
        world.address(server),
        BULK_PORT,
        "--timeout",
        "60",
        "--sent",
        size,
        "--received",
        size,
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out


def test_what_a_pod_says_to_the_world_passes_in_plaintext_from_its_own_address(world: World) -> None:
    log = world.log("node-a")
    with world.talk("client-a", world.address("outsider-b")) as talk:
        assert talk.say()["client"] == talk.address
        own = talk.address
    assert "dst.hbone_addr" not in log.line('direction="outbound"', f"src.addr={own}")


def test_pods_outside_the_mesh_are_not_touched(world: World) -> None:
    before = [world.counters(node) for node in ("node-a", "node-b")]
    with world.talk("outsider-a", world.address("outsider-b")) as talk:
        assert talk.say()["client"] == talk.address
    after = [world.counters(node) for node in ("node-a", "node-b")]
    own = {program for program, _ in after[0]} - {"from_pod_side", "lookup_pod_side"}
    assert own
    for was, now in zip(before, after, strict=True):
        assert not [key for key in now if "TO_PROXY" in key[1] and now[key] != was.get(key, 0)]


def test_an_unenrolled_pod_reaches_an_enrolled_one_in_plaintext(world: World) -> None:
    for client, server in (("outsider-a", "server-b"), ("outsider-a", "server-a")):
        assert world.ask(client, world.address(server)) == world.address(client)


def test_a_probe_of_the_host_is_answered_by_the_pod_itself(world: World) -> None:
    before = world.counters("node-a")
    for version in (4, 6):
        with world.talk("node-a", world.address("server-a", version)) as talk:
            assert talk.say()["client"] == talk.address
    after = world.counters("node-a")
    assert after["to_pod", "HOST_SYN"] == before.get(("to_pod", "HOST_SYN"), 0) + 2
    assert after.get(("to_pod", "SYN_TO_PROXY")) == before.get(("to_pod", "SYN_TO_PROXY"))


@pytest.mark.parametrize("vip", [HOST_VIP, VIP4, VIP6])
def test_the_host_reaches_enrolled_pods_through_a_service(world: World, vip: str) -> None:
    served = [world.application(f"server-{node}").clients for node in "ab"]
    before = sum(map(len, served))
    for _ in range(4):
        world.ask("node-a", vip, 80)
    assert sum(map(len, served)) == before + 4


def test_an_undeclared_port_of_a_service_is_refused_with_the_reason(world: World) -> None:
    log = world.log("node-a")
    with pytest.raises(ConnectionResetError), world.talk("client-a", VIP4, 81) as talk:
        talk.say()
    line = log.line(f"dst.addr={VIP4}:81")
    assert "Service demo/server.demo.svc.cluster.local has no port 81 (it declares 80)" in line


def test_the_way_back_to_a_host_service_of_the_own_node(world: World) -> None:
    """A pod dials its own node: the answer of the host's socket goes to the proxy's dial, not to the pod."""
    status, _ = world.http("node-a", 15021, "/healthz/ready")
    assert status == 200
    with world.dial("client-a", str(world.node("node-a").addresses[0]), 15021) as sock:
        sock.sendall(b"GET /healthz/ready HTTP/1.1\r\nhost: node\r\n\r\n")
        assert sock.recv(64).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("server", ["server-b", "outsider-b"], ids=["hbone", "passthrough"])
def test_a_link_that_takes_less_is_learnt_by_the_proxy(world: World, server: str, version: int) -> None:
    """The node's "too big" is meant for the proxy's socket, though it is sent to the pod; what it says is kept."""
    serve_bulk(world, server)
    address, log = world.address(server, version), world.log("node-a")
    too_big = world.counters("node-a").get(("to_pod", "ICMP_TO_PROXY"), 0)
    with small_link(world, 1300):
        with entered(world.pod("client-a").netns):
            probes.exchange(address, BULK_PORT, PATIENCE_S, 1 << 20, 1 << 20)
        net_side = path_of(f"{world.mesh.instance('node-a')}-net")
        assert path_mtu.learnt(net_side, address) == 1300
    assert world.counters("node-a")["to_pod", "ICMP_TO_PROXY"] > too_big
    world.proven_anew("node-a")
    assert not log.lines("not whole")
    assert path_mtu.learnt(net_side, address) == 1300


def test_both_ends_count_each_connection_once_over_all_workers(world: World) -> None:
    labels = {
        "source_workload": "server-b",  # which calls server-a in no other test
        "destination_workload": "server-a",
        "connection_security_policy": "mutual_tls",
    }
    for _ in range(8):
        world.ask("server-b", world.address("server-a"))
    for node, reporter in (("node-b", "source"), ("node-a", "destination")):
        until(
            lambda n=node, r=reporter: (
                world.metric(n, "istio_tcp_connections_opened_total", reporter=r, **labels) == 8
            ),
            f"eight connections by the {reporter}",
        )
