"""Connections through a whole data plane on loopback: routes, policy, telemetry and every refusal's effect."""

from __future__ import annotations

import gc
import socket

import pytest

from agent.model.address import parse_ip
from agent.model.outcome import Outcome
from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.model.workload import TunnelProtocol
from agent.state.apply import Batch
from tests.support import mesh
from tests.support.datapath import stream_pair
from tests.support.loopback import ours
from tests.support.two_nodes import CLIENT, SERVER, VIP, World, ended, exchange


def deny_client() -> object:
    match = Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/client"),))
    return mesh.policy("no-client", Action.DENY, match)


def test_connections_that_ended_leave_nothing_to_the_garbage_collector(world: World) -> None:
    kinds = {"OutboundConnection", "InboundTunnel", "TunnelRelay", "Tunnel", "Live", "Dial", "Waiter"}
    assert exchange(world.connect()) == b"hello"
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert exchange(world.connect()) == b"hello"
        world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))
        world.driver.until(lambda: not [o for o in gc.get_objects() if type(o).__name__ in kinds])
    finally:
        gc.enable()


def test_bytes_cross_and_the_application_sees_the_client(world: World) -> None:
    assert exchange(world.connect()) == b"hello"
    assert world.seen == [CLIENT]


def test_a_service_is_reached_by_its_vip(world: World) -> None:
    assert exchange(world.connect(f"{VIP}:80")) == b"hello"


def test_both_ends_log_the_connection_with_both_identities(world: World) -> None:
    exchange(world.connect(f"{VIP}:80"))
    world.driver.until(lambda: bool(world.here.lines and world.there.lines))
    for line in (world.here.lines[0], world.there.lines[0]):
        assert "spiffe://cluster.local/ns/apps/sa/client" in line
        assert "spiffe://cluster.local/ns/apps/sa/server" in line
        assert "connection complete" in line
        assert "web.apps.svc.cluster.local" in line
    assert "outbound" in world.here.lines[0] and "inbound" in world.there.lines[0]


def test_many_connections_share_one_tunnel_link(world: World) -> None:
    apps = [world.connect() for _ in range(20)]
    for app in apps:
        app.sendall(b"x")
        assert app.recv(1) == b"x"
    assert world.driver.call(lambda: len(world.here.pool.links)) == 1
    for app in apps:
        app.close()


def test_a_denied_connection_gets_no_byte_through(world: World) -> None:
    world.put_policy("apps/no-client", deny_client())
    assert ended(world.connect())
    assert world.seen == [], "the application was dialled although policy denies"
    assert any("explicitly denied by: apps/no-client" in line for line in world.there.lines)
    world.driver.until(lambda: bool(world.here.lines))
    assert "401" in world.here.lines[0]


def test_a_policy_change_closes_a_live_connection(world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    world.put_policy("apps/no-client", deny_client())
    assert ended(app)
    assert any("connection closed due to policy change" in line for line in world.there.lines)


def test_a_policy_that_still_allows_leaves_a_live_connection_alone(world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    other = Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/other"),))
    world.put_policy("apps/no-other", mesh.policy("no-other", Action.DENY, other))
    assert exchange(app, b"still here") == b"still here"


def test_an_identical_push_touches_nothing(world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    changes = world.driver.call(
        lambda: world.there.store.apply(Batch(addresses=(world.client, world.server, world.web)))
    )
    assert not changes
    assert exchange(app, b"y") == b"y"


def test_the_server_must_prove_the_expected_identity(world: World) -> None:
    impostor = mesh.workload("server", SERVER, service_account="someone-else", services={"web": {80: 8080}})
    world.driver.call(lambda: world.here.know(impostor))
    assert ended(world.connect())
    world.driver.until(lambda: bool(world.here.lines))
    assert "sa/someone-else" in world.here.lines[0] and "sa/server" in world.here.lines[0]
    assert world.seen == []


def test_handshakes_count_for_the_pod_they_reach(world: World) -> None:
    exchange(world.connect())
    tally = world.there.tallies.of(parse_ip(SERVER))
    world.driver.until(lambda: (tally.handshakes_done, tally.handshakes_failed) == (1, 0))
    with socket.create_connection((SERVER, 15008)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(stranger)
    world.driver.until(lambda: (tally.handshakes_done, tally.strangers_failed) == (1, 1))
    assert (tally.handshakes_failed, tally.last_error) == (0, "")
    with socket.create_connection((SERVER, 15008), source_address=(CLIENT, 0)) as member:
        member.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(member)
    world.driver.until(lambda: (tally.handshakes_failed, tally.strangers_failed) == (1, 1))
    assert tally.last_error


def test_no_certificate_means_no_connection(world: World) -> None:
    world.driver.call(lambda: world.here.secrets.forget(world.client.identity))
    assert ended(world.connect())
    world.driver.until(lambda: bool(world.here.lines))
    assert "no certificate for spiffe://cluster.local/ns/apps/sa/client" in world.here.lines[0]


def test_an_application_that_does_not_listen_is_an_error_at_both_ends(world: World) -> None:
    assert ended(world.connect(f"{SERVER}:9999"))
    world.driver.until(lambda: bool(world.here.lines and world.there.lines))
    assert "503" in world.here.lines[0]
    assert "refused" in world.there.lines[0].lower()


def test_a_destination_outside_the_mesh_is_passed_through(world: World) -> None:
    with socket.create_server((ours("3.3"), 0)) as outside:
        app = world.connect(f"{ours('3.3')}:{outside.getsockname()[1]}")
        served, peer = outside.accept()
        assert peer[0] == CLIENT
        served.sendall(b"220 hello\r\n")
        assert app.recv(11) == b"220 hello\r\n"
        served.close()
        app.close()


def test_an_undeclared_port_of_a_vip_is_refused(world: World) -> None:
    assert ended(world.connect(f"{VIP}:81"))
    world.driver.until(lambda: bool(world.here.lines))
    assert "81" in world.here.lines[0]


def test_a_pod_that_is_not_enrolled_is_refused(world: World) -> None:
    app = world.driver.call(lambda: world.here.capture(ours("1.99"), mesh.at(f"{SERVER}:8080")))
    assert isinstance(app, socket.socket)
    app.settimeout(5)
    assert ended(app)
    assert f"{ours('1.99')} belongs to no enrolled pod" in world.here.lines[0]


@pytest.mark.parametrize("world", [{"local_path": "handover"}], indirect=True)
def test_the_hand_over_inside_a_node_asks_policy_and_logs_twice(world: World) -> None:
    world.driver.call(lambda: world.there.add_pod(world.client, listening=False))
    app = world.driver.call(lambda: world.there.capture(CLIENT, mesh.at(f"{SERVER}:8080")))
    assert isinstance(app, socket.socket)
    app.settimeout(5)
    app.sendall(b"hel")
    assert app.recv(3) == b"hel"
    ends = world.driver.call(lambda: {(str(live.actual), live.protocol) for live in world.there.registry})
    assert ends == {(f"{SERVER}:8080", "TCP")}, "both halves: nobody dials the tunnel port"
    assert exchange(app, b"lo") == b"lo"
    world.driver.until(lambda: len(world.there.lines) == 2)
    assert all(f" dst.addr={SERVER}:8080 " in line for line in world.there.lines)
    assert world.driver.call(lambda: len(world.there.pool.links)) == 0, "it must not use TLS"
    world.put_policy("apps/no-client", deny_client())
    refused = world.driver.call(lambda: world.there.capture(CLIENT, mesh.at(f"{SERVER}:8080")))
    assert isinstance(refused, socket.socket)
    refused.settimeout(5)
    assert ended(refused)


def test_plaintext_to_an_enrolled_pod_is_judged_without_identity(world: World) -> None:
    strict = Match(not_principals=(StringMatch(StringMatchKind.PRESENCE),))
    first = plain(world)
    assert exchange(first) == b"hello"
    world.put_policy("apps/strict", mesh.policy("strict", Action.DENY, strict))
    assert ended(plain(world))
    assert any("explicitly denied by: apps/strict" in line for line in world.there.lines)


def plain(world: World) -> socket.socket:
    """A plaintext connection as the kernel steers it to 15006, from a client outside the mesh."""
    application, captured = stream_pair(ours("5.5"))
    captured.setblocking(False)
    peer = mesh.at(f"{ours('5.5')}:{application.getsockname()[1]}")
    world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, mesh.at(f"{SERVER}:8080")))
    application.settimeout(5)
    return application


@pytest.mark.parametrize("world", [{"max_connections": "1"}], indirect=True)
def test_a_full_agent_refuses_more(world: World) -> None:
    first = world.connect()
    assert ended(world.connect())
    assert Outcome.OVERLOADED.hint in world.here.lines[0]
    assert exchange(first) == b"hello"
    world.driver.until(lambda: not len(world.here.registry))
    assert exchange(world.connect()) == b"hello"


@pytest.mark.parametrize("world", [{"max_connections": "2"}], indirect=True)
def test_hbone_connections_are_limited_too(world: World) -> None:
    """They cost before anybody has proven anything: silent ones must not pile up without end."""
    silent = [socket.create_connection((SERVER, 15008)) for _ in range(2)]
    assert exchange(world.connect()) == b"hello"
    for sock in silent:
        sock.settimeout(5)
        with sock, pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_plain_destination_is_dialled_plainly(world: World) -> None:
    bare = mesh.workload("server", SERVER, service_account="server", protocol=TunnelProtocol.NONE)
    world.driver.call(lambda: world.here.know(bare))
    assert exchange(world.connect()) == b"hello"
    assert world.driver.call(lambda: len(world.here.pool.links)) == 0
