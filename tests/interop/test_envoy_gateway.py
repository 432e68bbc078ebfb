"""The real Envoy as the gateway of another network: it ends the outer tunnel, and carries the one in it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support import envoy
from tests.support.two_networks import HOST, SERVER, World
from tests.support.two_nodes import ended, exchange

pytestmark = pytest.mark.envoy

CLIENT_ID = "spiffe://cluster.local/ns/apps/sa/client"
SERVER_ID = "spiffe://cluster.local/ns/apps/sa/server"
GATEWAY_ID = "spiffe://cluster.local/ns/apps/sa/gw"
TO_THE_SERVER = f"""
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {SERVER}, port_value: 15008}}}}}}
"""
GATEWAY = envoy.terminate(envoy.LISTENER, TO_THE_SERVER, envoy.ADMIN)


@contextlib.contextmanager
def through_envoy(identity: str = GATEWAY_ID) -> Iterator[tuple[World, envoy.Envoy]]:
    world = World()
    try:
        with envoy.run(GATEWAY, world.ca, world.ca.issue(identity), CLIENT_ID) as gateway:
            world.start(gateway.listen)
            yield world, gateway
    finally:
        world.close()


def test_16_mib_each_way_byte_exact_and_the_far_end_knows_the_client() -> None:
    data, got = random.Random(1).randbytes(16 << 20), bytearray()
    with through_envoy() as (world, gateway), world.connect() as app:
        sender = threading.Thread(target=lambda: (app.sendall(data), app.shutdown(socket.SHUT_WR)))
        sender.start()
        while piece := app.recv(65536):
            got += piece
        sender.join()
        assert got == data
        near, far = world.until_logged(world.here), world.until_logged(world.there)
        assert f'dst.identity="{SERVER_ID}"' in near and f"dst.hbone_addr={HOST}:80" in near
        assert f'src.identity="{CLIENT_ID}"' in far and "connection complete" in far
        assert gateway.stat("http.terminate.downstream_rq_total") == 1


def test_many_share_the_way_to_it_and_end_one_by_one() -> None:
    with through_envoy() as (world, gateway):
        apps = [world.connect() for _ in range(20)]
        for app in apps:
            app.sendall(b"x")
            assert app.recv(1) == b"x"
        assert gateway.stat("http.terminate.downstream_cx_total") == 1
        for app in apps:
            app.close()
        world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))
        world.driver.until(lambda: not world.here.pool.links[0][1].open_streams)
        assert exchange(world.connect()) == b"hello"


def test_a_gateway_that_is_somebody_else_is_not_spoken_to() -> None:
    with through_envoy("spiffe://cluster.local/ns/apps/sa/other") as (world, gateway):
        assert ended(world.connect())
        assert "sa/other" in world.until_logged(world.here)
        assert gateway.stat("http.terminate.downstream_rq_total") == 0


def test_a_gateway_that_dies_resets_what_it_carried() -> None:
    with through_envoy() as (world, gateway), world.connect() as app:
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        gateway.process.kill()
        with pytest.raises(ConnectionResetError):
            app.recv(1)
