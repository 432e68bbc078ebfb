"""The real Envoy as a waypoint, of a Service and of a pod: captured traffic is routed, judged and tried again by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.policy import Match
from agent.model.workload import Workload
from tests.support import mesh
from tests.support.datapath import DataPath, stream_pair
from tests.support.two_nodes import CLIENT, SERVER, VIP, ended
from tests.support.waypoint import CLIENT_ID, WAYPOINT_ID, By, ask, behind_a_waypoint

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize(
    ("by", "of_pod"),
    [
        (By.ADDRESS, False),
        (By.ADDRESS, True),
        (By.SERVICE, False),
        (By.SERVICE, True),
        (By.WORKLOAD, False),
        (By.RESOLVED_NAME, False),
    ],
    ids=lambda it: it.name if isinstance(it, By) else "of a pod" if it else "of a Service",
)
def test_it_is_on_the_way(by: By, of_pod: bool) -> None:
    with behind_a_waypoint(by=by, of_pod=of_pod) as world:
        asked = f"{SERVER}:8080" if of_pod else f"{VIP}:80"
        assert ask(world, asked) == (200, "v1")
        world.driver.until(lambda: bool(world.here.lines))
        near = world.here.lines[0]
        assert f'dst.identity="{WAYPOINT_ID}"' in near and f"dst.hbone_addr={asked} " in near
        # The node of the server sees who really comes.
        link = next(iter(world.there.inbound.links)).link
        assert str(link.peer) == WAYPOINT_ID


def test_requests_are_routed_by_their_headers() -> None:
    with behind_a_waypoint() as world:
        assert [ask(world, x_version=version) for version in ("v1", "v2")] == [(200, "v1"), (200, "v2")]
        assert [each.asked for each in world.versions.values()] == [1, 1]


def test_requests_are_judged_by_who_sends_them_and_by_their_headers() -> None:
    with behind_a_waypoint() as world:
        assert ask(world) == (200, "v1"), f"reads of {CLIENT_ID} are allowed"
        assert ask(world, method="POST")[0] == 403
        assert ask(world, method="POST", x_role="admin") == (200, "v1")


def test_what_fails_is_tried_again() -> None:
    with behind_a_waypoint() as world:
        world.versions["v1"].failures = 2
        assert ask(world) == (200, "v1")
        assert world.versions["v1"].asked == 3


def test_the_server_may_let_in_its_waypoint_alone() -> None:
    with behind_a_waypoint() as world:
        only = Match(principals=(mesh.exact(WAYPOINT_ID.removeprefix("spiffe://")),))
        world.put_policy("apps/only", mesh.allow("only", only))
        assert ask(world) == (200, "v1")
        assert ended(world.connect(f"{SERVER}:8080")), "past the waypoint"


@pytest.mark.parametrize("by", [By.ADDRESS, By.SERVICE, By.WORKLOAD], ids=lambda by: by.name)
def test_where_that_is_enforced_there_is_no_way_past_it(by: By) -> None:
    with behind_a_waypoint(by=by, of_pod=True, enforce_waypoint="true") as world:
        guarded = world.server
        unaware = replace(guarded, waypoint=None)

        def tell(plane: DataPath, what: Workload) -> None:
            world.driver.call(lambda: plane.know(what))

        assert ask(world, f"{SERVER}:8080") == (200, "v1")
        # As a client that has not heard of the waypoint, or does not want to.
        tell(world.here, unaware)
        assert ended(world.connect(f"{SERVER}:8080"))
        client, captured = stream_pair(CLIENT)
        captured.setblocking(False)
        local = mesh.at(f"{SERVER}:8080")
        peer = mesh.at(f"{CLIENT}:{client.getsockname()[1]}")
        world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, local))
        client.settimeout(5)
        assert ended(client), "plaintext"
        refused = [line for line in world.there.lines if 'error="WAYPOINT_BYPASSED' in line]
        assert [CLIENT_ID in refused[0], "plaintext" in refused[1]] == [True, True], world.there.lines
        figures = {(name, *labels): value for name, labels, value in world.there.metrics.figures.items()}
        assert figures["ztun_connections_failed", "inbound", "waypoint_bypassed"] == 2
        # What is open when the pod takes a waypoint is judged again.
        tell(world.there, unaware)
        app = world.connect(f"{SERVER}:8080")
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        tell(world.there, guarded)
        assert ended(app)


def test_with_the_hybrid_key_exchange_alone_it_is_on_the_way_of_agents_that_want_no_other() -> None:
    """As server and as client."""
    with behind_a_waypoint(key_exchange="X25519MLKEM768", compliance_policy="pqc") as world:
        assert ask(world) == (200, "v1")
        [(_, link)] = world.here.pool.links
        [entry] = world.there.inbound.links
        for secured in (link.secured, entry.link.secured):
            assert secured is not None and secured.group == "X25519MLKEM768"


def test_without_the_hybrid_key_exchange_it_is_on_nobodys_way() -> None:
    with behind_a_waypoint(key_exchange="X25519", compliance_policy="pqc") as world:
        assert ended(world.connect(f"{VIP}:80"))
        world.driver.until(lambda: bool(world.here.lines))
        assert "--compliance-policy allows the key exchange X25519MLKEM768 alone" in world.here.lines[0]


def test_one_that_is_somebody_else_is_told_nothing() -> None:
    with behind_a_waypoint(identity="spiffe://cluster.local/ns/apps/sa/other") as world:
        assert ended(world.connect(f"{VIP}:80"))
        world.driver.until(lambda: bool(world.here.lines))
        assert "sa/other" in world.here.lines[0] and not world.waypoint.stat(
            "http.tunnels.downstream_rq_total"
        )


def test_without_its_waypoint_nothing_gets_through() -> None:
    with behind_a_waypoint() as world:
        world.waypoint.process.kill()
        world.waypoint.process.wait()
        assert ended(world.connect(f"{VIP}:80"))
        world.driver.until(lambda: bool(world.here.lines))
        assert 'error="CONNECT_FAILED' in world.here.lines[0] and not world.versions["v1"].asked
