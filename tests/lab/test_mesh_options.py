"""What other settings change, on one mesh that has them: the hand-over inside a node, refusal of unknown addresses."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from agent.lab.firewall import Denied
from agent.model.address import parse_ip
from agent.model.listener import SOCKS5_PORT
from agent.wire.socks5 import Reply, reply
from redirect.netns import entered
from tests.support.labmesh import OWN_VIP, PORT, VIP4, World, policy_manifest, principal, running
from tests.support.labstalled import ECHO_PORT, Stalled, echoes
from tests.support.labtraffic import Talk, until

pytestmark = pytest.mark.kernel

FLAGS = {
    "workers": "1",
    "local-path": "handover",
    "mesh-cidrs": "10.77.0.0/16,fd77:1::/64",
    "log-format": "json",
    "allow-encapsulation": "gre,geneve",
    "compliance-policy": "pqc",
    "socks5": "true",
    "host-traffic": "none",
}
SOCKS5 = {4: "169.254.77.1", 6: "fd7a:7475:6e::1"}
GRE, ESP = 47, 50
VXLAN, GENEVE = (4789, 8472), 6081

DRAIN_S = 1.0
"""The drain deadline of agents in a lab."""


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of revocation lists of both nodes."""
    made = tmp_path_factory.mktemp("lists") / "crl.pem"
    made.touch()
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, lists: Path) -> Iterator[World]:
    with running("o", tmp_path_factory.mktemp("options"), flags=FLAGS | {"crl-path": str(lists)}) as made:
        yield made


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_inside_a_node_is_handed_over_without_a_tunnel(world: World, version: int) -> None:
    log = world.log("node-a")
    with world.talk("client-a", world.address("server-a", version)) as talk:
        assert talk.say()["client"] == talk.address, "address and port are the client's own"
    assert not world.tunnels("node-a")
    for direction in ("outbound", "inbound"):
        line = log.line(f'"direction":"{direction}"')
        assert "sa/client" in line and "server-a" in line


def test_a_pod_that_calls_its_own_service_lands_on_itself(world: World) -> None:
    with world.talk("server-a", OWN_VIP, 80) as talk:
        assert talk.say()["server"].startswith(world.address("server-a"))


def test_a_hand_over_asks_policy_at_its_beginning_and_when_policy_changes(world: World) -> None:
    address = world.address("server-a")
    with world.talk("client-a", address) as live:
        live.say()
        with world.manifest("policy", policy_manifest("test", principal("nobody"))):
            until(live.is_ended, "the live connection ends")
            assert not world.is_served("client-a", address)
    until(lambda: world.is_served("client-a", address), "the mesh is open again")


def test_a_hand_over_skips_the_policy_of_the_host_as_documented(world: World) -> None:
    world.lab.deny_forward(Denied(world.pod("client-a").address(4), world.pod("server-a").address(4)))
    try:
        assert world.is_served("client-a", world.address("server-a"))
    finally:
        world.lab.allow_forward()


def test_handed_over_connections_that_nobody_reads_stop_no_other(world: World) -> None:
    world.serve("server-a", "echo", ECHO_PORT)
    with Stalled(world, "client-a", "server-a") as stalled:
        for direction in ("down", "up"):
            stalled.open(direction, 12)
            with world.dial("client-a", world.address("server-a"), ECHO_PORT) as other:
                echoes(other)
    assert not world.tunnels("node-a")


def test_who_has_asked_socks5_for_nothing_yet_is_listed(world: World) -> None:
    with world.dial("client-a", SOCKS5[4], SOCKS5_PORT) as sock:
        sock.sendall(b"\x05\x01\x00")
        assert sock.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
        rows = json.loads(world.cli("connections", "-o", "json", node="node-a").stdout)["connections"]
    assert ("demo/client-a", "SOCKS5") in [(row["pod"], row["protocol"]) for row in rows]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "server", ["server-a", "server-b", "outsider-b"], ids=["handed over", "by a tunnel", "plain"]
)
def test_socks5_reaches_what_a_connection_of_the_pod_would(world: World, server: str, version: int) -> None:
    """Without held SYNs: its own connection is accepted at once, and asks then."""
    host = world.address(server, version)
    with Talk(world.dial("client-a", SOCKS5[version], SOCKS5_PORT)) as talk:
        talk.sock.sendall(b"\x05\x01\x00")
        assert talk.sock.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
        address = parse_ip(host).packed
        asked = b"\x05\x01\x00" + (b"\x01" if version == 4 else b"\x04") + address + PORT.to_bytes(2, "big")
        talk.sock.sendall(asked)
        assert talk.sock.recv(10, socket.MSG_WAITALL) == reply(Reply.SUCCEEDED)
        said = talk.say()
    assert said["client"].rpartition(":")[0].strip("[]") == world.address("client-a", version)
    assert said["server"].rpartition(":")[0].strip("[]") == host


def test_between_nodes_there_is_a_tunnel_as_ever(world: World) -> None:
    assert world.ask("client-a", world.address("server-b")) == world.address("client-a")
    assert {row["group"] for row in world.tunnels("node-a")} == {"X25519MLKEM768"}


@pytest.mark.parametrize("address", ["10.77.2.99", "fd77:1::99"])
def test_an_unknown_address_of_the_mesh_is_refused(world: World, address: str) -> None:
    log = world.log("node-a")
    with pytest.raises(OSError), world.talk("client-a", address) as talk:
        talk.say()
    assert "no workload or service has it" in log.line("connection failed", address)


def test_other_unknown_addresses_pass(world: World) -> None:
    """That nothing answers there is the destination's own word."""
    log = world.log("node-a")
    with pytest.raises(OSError), world.talk("client-a", str(world.node("node-b").addresses[0]), 9) as talk:
        talk.say()
    line = log.line('"direction":"outbound"', ":9")
    assert "CONNECT_FAILED" in line and "refused" in line


def raw(world: World, pod: str, protocol: int) -> socket.socket:
    """Sends and receives whole IP packets of a protocol."""
    with entered(world.pod(pod).netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    sock.settimeout(5)
    return sock


def test_packets_inside_of_packets_pass_where_their_kind_is_allowed(world: World) -> None:
    target = (world.address("server-b"), 0)
    dropped = ("from_pod", "ENCAPSULATED")
    before = world.counters("node-a").get(dropped, 0)
    with raw(world, "client-a", ESP) as sender:
        sender.sendto(b"closed", target)
    assert world.counters("node-a")[dropped] == before + 1
    with raw(world, "server-b", GRE) as receiver, raw(world, "client-a", GRE) as sender:
        sender.sendto(b"allowed", target)
        assert receiver.recv(1500).endswith(b"allowed")


def test_packets_inside_of_datagrams_are_told_by_their_port(world: World) -> None:
    dropped = ("from_pod", "UDP_ENCAPSULATED")
    before = world.counters("node-a").get(dropped, 0)
    with entered(world.pod("server-b").netns), socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(("", GENEVE))
        with entered(world.pod("client-a").netns), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for port in VXLAN:
                sender.sendto(b"closed", (world.address("server-b"), port))
            sender.sendto(b"allowed", (world.address("server-b"), GENEVE))
        assert receiver.recv(1500) == b"allowed"
    assert world.counters("node-a")[dropped] == before + len(VXLAN)


def test_services_are_balanced_over_both_paths(world: World) -> None:
    seen = {name: len(world.application(name).clients) for name in ("server-a", "server-b")}
    for _ in range(40):
        world.ask("client-a", VIP4, 80)
    assert all(len(world.application(name).clients) > count for name, count in seen.items())


def test_an_agent_that_stops_waits_no_longer_than_for_its_last_worker(world: World) -> None:
    process = world.process("agent-node-b")
    process.terminate()
    process.wait(DRAIN_S + 1)
    world.restart("node-b")
    assert world.is_served("client-b", world.address("server-b"))


def revoking(world: World, *serials: int) -> bytes:
    """The list of the mesh's own authority."""
    root = x509.load_pem_x509_certificate((world.mesh.state_dir / "root.pem").read_bytes())
    key = serialization.load_pem_private_key((world.mesh.state_dir / "ca-key.pem").read_bytes(), None)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(root.subject).last_update(now)
    builder = builder.next_update(now + timedelta(hours=1))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def serial_of(world: World, node: str, account: str) -> int:
    _, body = world.http(node, 15000, "/config_dump")
    rows = [row for row in json.loads(body)["certificates"] if row["identity"].endswith(f"/sa/{account}")]
    return int(rows[0]["certChain"][0]["serialNumber"])


def test_a_peer_that_is_revoked_is_cut_off_and_refused_until_it_is_no_more(world: World, lists: Path) -> None:
    address = world.address("server-a")
    log = world.log("node-a")
    with world.talk("client-b", address) as live, world.talk("client-a", address) as other:
        live.say()
        other.say()
        lists.write_bytes(revoking(world, serial_of(world, "node-b", "client")))
        until(live.is_ended, "the live connection ends")
        assert other.say()["client"] == other.address, "it is on no list"
    assert "was revoked by" in log.line('"direction":"inbound"', "sa/client", "revoked")
    assert not world.is_served("client-b", address)
    until(
        lambda: world.metric("node-a", "istio_crl_policy_rejections_total", reporter="destination") >= 2,
        "both are counted",
    )
    assert world.metric("node-a", "ztun_crl_revoked_certificates") == 1
    lists.write_bytes(revoking(world)[:-40])
    until(lambda: world.metric("node-a", "ztun_crl_usable") == 0, "it is said that the file is cut off")
    assert not world.is_served("client-b", address), "what was read last is in force"
    lists.write_bytes(revoking(world))
    until(lambda: world.is_served("client-b", address), "it is on no list any more")
    until(lambda: world.status("node-a")["state"] == "READY", "and nothing is wrong with the file")


def test_the_node_itself_meets_policy_where_its_connections_do_not_pass(world: World) -> None:
    assert world.status("node-a")["host_traffic"] == {"mode": "none", "passes": "nobody's"}
    before = world.counters("node-a").get(("to_pod", "HOST_SYN_TO_PROXY"), 0)
    for version in (4, 6):
        with world.talk("node-a", world.address("server-a", version)) as talk:
            assert talk.say()["client"].rpartition(":")[0] == talk.address.rpartition(":")[0]
    assert world.counters("node-a")["to_pod", "HOST_SYN_TO_PROXY"] == before + 2
    assert world.metric("node-a", "ztun_redirect_packets_total", reason="HOST_SYN_TO_PROXY") == before + 2
    with world.manifest("clients-only", policy_manifest("clients-only", principal("client"))):
        until(lambda: not world.is_served("node-a", world.address("server-a")), "the node is denied")
        assert world.is_served("client-a", world.address("server-a"))
    until(lambda: world.is_served("node-a", world.address("server-a")), "it is let in again")
