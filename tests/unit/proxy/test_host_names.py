"""Workloads that are known by their host name alone are dialled at what it stands for, or refused with why not."""

from __future__ import annotations

import socket

from agent import channel
from agent.model.workload import TunnelProtocol
from agent.telemetry import families
from tests.support import mesh
from tests.support.loopback import ours
from tests.support.told_worker import orders_of
from tests.support.two_nodes import SERVER, VIP, World, ended, exchange

EXTERNAL = mesh.workload(
    "external", hostname="db.example", protocol=TunnelProtocol.NONE, services={"db": {80: 8080}}
)
DB = mesh.service("db", "10.9.0.77")
OUTSIDE = ours("7.7")


def know(world: World) -> None:
    world.driver.call(lambda: world.here.know(EXTERNAL, DB))


def told(world: World, *addresses: str, error: str = "") -> None:
    """As the control process says it."""
    sent = channel.encode(channel.HostNames([("db.example", list(addresses), error)]))
    message = channel.decode(sent[channel.PREFIX.size :])

    def carry_out() -> None:
        orders_of(world.here).carry_out(message, (), lambda _: None)

    world.driver.call(carry_out)


def counted(world: World) -> list[tuple[list[str], float]]:
    found = world.here.metrics.figures.items()
    return [(values, count) for name, values, count in found if name == families.ON_DEMAND_DNS.name]


def reaches_outside(world: World) -> bool:
    with socket.create_server((OUTSIDE, 8080)) as listener, world.connect("10.9.0.77:80") as app:
        listener.settimeout(5)
        server, _ = listener.accept()
        with server:
            app.sendall(b"hello")
            return server.recv(100) == b"hello"


def test_it_is_dialled_at_what_the_name_stands_for(world: World) -> None:
    know(world)
    told(world, OUTSIDE)
    assert reaches_outside(world)
    world.driver.until(lambda: bool(world.here.lines))
    assert f"dst.addr={OUTSIDE}:8080" in world.here.lines[0]
    ((values, count),) = counted(world)
    assert (values[-1], count) == ("db.example", 1)


def test_the_clients_family_is_preferred_and_the_other_one_will_do(world: World) -> None:
    know(world)
    told(world, "2001:db8::1", OUTSIDE)
    for _ in range(4):
        assert reaches_outside(world)


def test_whoever_serves_the_name_takes_no_pod_out_of_mutual_tls(world: World) -> None:
    know(world)
    told(world, SERVER)
    assert exchange(world.connect("10.9.0.77:80")) == b"hello"
    world.driver.until(lambda: bool(world.here.lines) and bool(world.there.lines))
    assert 'src.identity="spiffe://cluster.local/ns/apps/sa/client"' in world.there.lines[0]
    ((values, count),) = counted(world)
    assert (values[-1], count) == ("db.example", 1)


def test_without_an_answer_it_is_refused_with_the_reason(world: World) -> None:
    know(world)
    assert ended(world.connect("10.9.0.77:80"))
    world.driver.until(lambda: bool(world.here.lines))
    assert "db.example has not been looked up yet" in world.here.lines[0]
    told(world, error="db.example. does not exist")
    assert ended(world.connect("10.9.0.77:80"))
    world.driver.until(lambda: len(world.here.lines) == 2)
    assert "db.example. does not exist" in world.here.lines[1]
    assert exchange(world.connect(f"{VIP}:80")) == b"hello"
