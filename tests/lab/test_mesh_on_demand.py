"""Agents that ask for what their pods dial: the mesh works as if they knew all of it, and they do not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from agent.lab.topology import Topology
from tests.support.labmesh import ENROLLED, POD, VIP4, VIP6, World, running
from tests.support.labtraffic import Talk, until

pytestmark = pytest.mark.kernel

FLAGS = {"on-demand": "true", "mesh-cidrs": "10.77.0.0/16,fd77::/16"}
SPARE = POD.format(name="spare-b", account="spare", node="node-b", side=2, low=14)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("on-demand")

    def without_spare(_: Topology) -> None:
        pods = directory / "manifests" / "pods.yaml"
        pods.write_text(pods.read_text().replace(SPARE, ""))

    with running("q", directory, flags=FLAGS, enrolled=False, prepare=without_spare) as made:
        for name in ENROLLED:
            made.mesh.enroll(made.pod(name))
        for node in made.lab.nodes:
            own = {place.key for place in map(made.pod, ENROLLED) if place.node == node}
            until(lambda own=own, node=node: own <= announced(made, node), f"{node} has heard of its pods")
        yield made


def announced(world: World, node: str) -> set[str]:
    return set(world.mesh.ask(node, "GET", "/announced"))


def known(world: World, node: str) -> set[str]:
    _, body = world.http(node, 15000, "/config_dump")
    return {workload["name"] for workload in json.loads(body)["workloads"]}


def test_what_is_dialled_is_asked_for_and_nothing_else_is_known(world: World) -> None:
    assert not {"server-b", "outsider-b"} & known(world, "node-a"), "only what is on the node has come"
    log = world.log("node-a")
    assert world.is_served("client-a", world.address("server-b", 6))
    log.line('direction="outbound"', "sa/client", "sa/server")
    assert "server-b" in known(world, "node-a") and "outsider-b" not in known(world, "node-a")


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_service_comes_with_its_endpoints(world: World, vip: str) -> None:
    log = world.log("node-a")
    assert world.is_served("client-a", vip, 80)
    log.line('direction="outbound"', "sa/client", "sa/server", "dst.service=")


def test_a_pod_that_is_dialled_as_it_is_born_is_reached(world: World) -> None:
    """The control plane has not read of it when it is asked; a second later nobody would be waiting any more."""
    world.serve("spare-b")
    with world.manifest("newborn", SPARE):
        assert world.is_served("client-a", world.address("spare-b"))
        assert "spare-b" in known(world, "node-a")


def test_an_address_that_nobody_has_is_refused(world: World) -> None:
    log = world.log("node-a")
    with pytest.raises(OSError), world.dial("client-a", "10.77.2.99") as sock:
        sock.settimeout(5)
        Talk(sock).say()
    log.line("10.77.2.99:8080 lies in 10.77.0.0/16 of the mesh, but no workload or service has it")


def test_it_asks_again_when_the_control_plane_is_back(world: World) -> None:
    world.kill(world.process("control-plane").pid)
    with pytest.raises(OSError), world.dial("client-a", world.address("outsider-b")) as sock:
        sock.settimeout(5)
        Talk(sock).say()
    assert world.is_served("client-a", world.address("server-b")), "what is known stays"
    world.mesh.start_control_plane()
    for node in world.lab.nodes:
        world.mesh.wait_ready(node)
    assert world.is_served("client-a", world.address("outsider-b"))
