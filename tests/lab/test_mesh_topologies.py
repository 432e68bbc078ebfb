"""The mesh on nodes as CNIs, kube-proxies, firewalls and network policies of many kinds leave them.

On each of them FORWARD drops what is not allowed by interface, what leaves for the outside is masqueraded, and packets
with another CNI's mark are routed into nothing. One that has all at once always runs, the others with `--long`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest

from agent.lab import probes
from agent.lab.firewall import Denied
from redirect.netns import entered
from tests.support.cni_shapes import Shape, mark_seen, reshape
from tests.support.kube_proxy import BALANCER
from tests.support.labmesh import (
    BULK_PORT,
    HOST_VIP,
    NODE_PORT,
    OWN_VIP,
    PORT,
    SILENCE_S,
    VIP4,
    VIP6,
    World,
    running,
)
from tests.support.labtraffic import PATIENCE_S, Application

OUTSIDE_PORT = 8081
TRANSFER_BYTES = 1 << 20
VERSIONS = pytest.mark.parametrize("version", [4, 6])
WHOLE = Shape(
    "bridge-filtered-hairpin-strict-overlay-iptables",
    is_bridged=True,
    is_filtered=True,
    is_hairpin=True,
    is_strict=True,
    has_overlay=True,
    nat="iptables-nft",
)
LONG = (
    Shape("routed-strict", is_strict=True),
    Shape("routed-iptables", nat="iptables-legacy"),
    Shape("routed-overlay-strict", has_overlay=True, is_strict=True),
    Shape("bridge", is_bridged=True),
    Shape("bridge-macspoofchk", is_bridged=True, has_macspoofchk=True),
    Shape("flat-macspoofchk", is_bridged=True, is_flat=True, has_macspoofchk=True),
    Shape(
        "bridge-promiscuous-hairpin", is_bridged=True, is_hairpin=True, is_promiscuous=True, is_strict=True
    ),
    Shape("bridge-filtered-overlay", is_bridged=True, is_filtered=True, is_hairpin=True, has_overlay=True),
)

pytestmark = pytest.mark.kernel


@pytest.fixture(
    scope="module",
    params=[WHOLE, *(pytest.param(each, marks=pytest.mark.long) for each in LONG)],
    ids=lambda s: s.name,
)
def shape(request: pytest.FixtureRequest) -> Shape:
    made: Shape = request.param
    return made


@pytest.fixture(scope="module")
def world(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running("t", tmp_path_factory.mktemp("t"), prepare=partial(reshape, shape=shape)) as made:
        yield made
        # Of all that the tests of a shape did.
        assert [mark_seen(node) for node in made.lab.nodes.values()] == [0, 0]


@VERSIONS
@pytest.mark.parametrize("server", ["server-a", "server-b"], ids=["same-node", "other-node"])
def test_pods_talk_by_tls_and_keep_their_addresses(world: World, server: str, version: int) -> None:
    log = world.log("node-a")
    with world.talk("client-a", world.address(server, version)) as talk:
        assert talk.say()["client"].rpartition(":")[0].strip("[]") == world.address("client-a", version)
        own = talk.address
    assert f'dst.workload="{server}"' in log.line("dst.identity=", f"src.addr={own}", ":15008")


@VERSIONS
@pytest.mark.parametrize("client", ["outsider-a", "outsider-b"])
def test_pods_outside_of_the_mesh_reach_those_in_it(world: World, client: str, version: int) -> None:
    assert world.ask(client, world.address("server-a", version)) == world.address(client, version)
    assert world.ask("client-a", world.address(client, version)) == world.address("client-a", version)


@pytest.mark.parametrize("client", ["client-a", "client-b", "outsider-a", "outsider-b"])
def test_services_reach_pods_in_the_mesh(world: World, shape: Shape, client: str) -> None:
    """Those that the mesh knows, one that the host alone translates, a node port and a load balancer's address.

    Where what is switched never meets the host, answers of a pod on the client's own bridge come back untranslated,
    with a mesh or without: there the mesh's own Services remain.
    """
    for vip in (VIP4, VIP6) if shape.meets_forward or client.startswith("client") else ():
        world.ask(client, vip, 80)
    if not shape.meets_forward and (client.endswith("-a") or shape.is_flat):
        return
    seen = len(world.application("server-a").clients)
    hidden = [HOST_VIP] if shape.nat == "nftables" else [HOST_VIP, *BALANCER.values()]
    for vip in hidden:
        world.ask(client, vip, 80)
    versions = (4,) if shape.nat == "nftables" else (4, 6)
    nodes = [str(ip) for ip in world.node("node-a").addresses if ip.version in versions]
    for address in nodes:
        world.ask(client, address, NODE_PORT)
    assert len(world.application("server-a").clients) == seen + len(hidden) + len(nodes)


@pytest.mark.parametrize("vip", [OWN_VIP, HOST_VIP])
def test_a_pod_that_calls_its_own_service_lands_on_itself(world: World, vip: str) -> None:
    with world.talk("server-a", vip, 80) as talk:
        assert talk.say()["server"] == f"{world.address('server-a')}:{PORT}"


@VERSIONS
def test_what_a_pod_says_to_the_outside_is_masqueraded(world: World, shape: Shape, version: int) -> None:
    """Unless its own node has nothing to do with it."""
    here, there = (
        next(ip for ip in world.node(name).addresses if ip.version == version)
        for name in ("node-a", "node-b")
    )
    with closing(Application(world.node("node-b").netns, "marker", OUTSIDE_PORT)):
        for client in ("client-a", "outsider-a"):
            seen = world.address(client, version) if shape.is_flat else str(here)
            assert world.ask(client, str(there), OUTSIDE_PORT) == seen


@VERSIONS
def test_a_probe_of_the_node_is_answered_by_the_pod_itself(world: World, version: int) -> None:
    before = world.counters("node-a").get(("to_pod", "HOST_SYN"), 0)
    with world.talk("node-a", world.address("server-a", version)) as talk:
        assert talk.say()["client"] == talk.address
    assert world.counters("node-a")["to_pod", "HOST_SYN"] == before + 1


@VERSIONS
@pytest.mark.parametrize("server", ["server-b", "outsider-b"], ids=["hbone", "passthrough"])
def test_large_transfers_arrive(world: World, server: str, version: int) -> None:
    """By an overlay whose MTU is smaller than that of the pods, where the shape has one."""
    if (server, BULK_PORT) not in world.applications:
        world.serve(server, "bulk", BULK_PORT)
    with entered(world.pod("client-a").netns):
        probes.exchange(world.address(server, version), BULK_PORT, PATIENCE_S, TRANSFER_BYTES, TRANSFER_BYTES)


@VERSIONS
def test_a_network_policy_between_two_pods_of_a_node_holds(world: World, shape: Shape, version: int) -> None:
    """For pods in the mesh if for others. The last one: what it cuts is not waited for."""
    server = world.pod("server-a").address(version)
    pairs = [Denied(world.pod(name).address(version), server) for name in ("client-a", "outsider-a")]

    def arrived() -> int:
        return sum(
            (":" in each.rpartition(":")[0]) == (version == 6)
            for each in world.application("server-a").clients
        )

    world.lab.deny_forward(*pairs)
    try:
        before = arrived()
        held = []
        for client in ("outsider-a", "client-a"):
            try:
                world.ask(client, str(server), timeout_s=SILENCE_S if shape.meets_forward else PATIENCE_S)
            except TimeoutError:
                held.append(client)
        assert held == (["outsider-a", "client-a"] if shape.meets_forward else [])
        assert arrived() == before + 2 - len(held)
    finally:
        world.lab.allow_forward()
