"""Revocation lists that come while connections live: who is on them is cut off at once, and nobody else."""

from __future__ import annotations

import socket

import pytest
from cryptography import x509

from agent.briefing import revoked_message
from agent.identity.revocation_file import read_lists
from tests.support.certs import crl_pem
from tests.support.datapath import DataPath
from tests.support.told_worker import ToldWorker
from tests.support.two_networks import running as two_networks
from tests.support.two_nodes import World, ended, exchange

WATCHED = pytest.mark.parametrize("world", [{"crl_path": "/of-the-test"}], indirect=True)
REJECTIONS = "istio_crl_policy_rejections"


def leaf(plane: DataPath, pod: object) -> x509.Certificate:
    return plane.secrets.get(pod.identity).chain[0]  # type: ignore[attr-defined]


def opened(world: World) -> socket.socket:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    return app


def is_cut(app: socket.socket) -> bool:
    """Well before the time-out of the socket, which it is no answer to."""
    with app:
        try:
            return app.recv(1) == b""
        except ConnectionResetError:
            return True


def counts(plane: DataPath, name: str) -> dict[tuple[str, ...], float]:
    found = plane.metrics.figures.items()
    return {tuple(labels): value for family, labels, value in found if family == name and value}


@WATCHED
def test_a_live_client_is_cut_off_and_refused_from_then_on(world: World, told: ToldWorker) -> None:
    app = opened(world)
    told.tell(revoked_message(read_lists(crl_pem(world.ca.revoking(leaf(world.here, world.client))))))
    assert is_cut(app)
    world.driver.until(lambda: not len(world.there.registry) and not len(world.here.registry))
    (line,) = world.there.lines
    assert "was revoked by" in line and str(world.client.identity) in line and "CERT_REVOKED" not in line
    (flags,) = [each for each in world.there.metrics.snapshot()["tcp"] if "CERT_REVOKED" in each[0]]
    assert flags
    assert ended(world.connect())
    world.driver.until(
        lambda: (
            counts(world.there, "ztun_handshake_failures") == {("server", "revoked"): 1}
            and counts(world.there, REJECTIONS) == {("destination",): 2}
        )
    )
    told.tell(revoked_message(()))
    assert exchange(world.connect()) == b"hello"


@WATCHED
def test_a_live_server_is_cut_off_at_the_client(world: World) -> None:
    app, worker = opened(world), ToldWorker(world.driver, world.here)
    try:
        worker.tell(revoked_message(read_lists(crl_pem(world.ca.revoking(leaf(world.there, world.server))))))
        assert is_cut(app)
        world.driver.until(lambda: bool(world.here.lines))
        assert "was revoked by" in world.here.lines[0]
        assert ended(world.connect())
        world.driver.until(lambda: counts(world.here, REJECTIONS) == {("source",): 2})
    finally:
        worker.close()


@WATCHED
def test_who_is_not_on_a_list_goes_on(world: World, told: ToldWorker) -> None:
    app = opened(world)
    told.tell(revoked_message(read_lists(crl_pem(world.ca.revoking(leaf(world.there, world.server))))))
    assert exchange(app, b"y") == b"y", "its own certificate is the peers' to judge"


def test_behind_a_gateway_the_far_end_is_judged_too() -> None:
    with two_networks() as world:
        app = world.connect()
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        assert len(world.here.far_networks.links) == 1
        worker = ToldWorker(world.driver, world.here)
        try:
            server = leaf(world.there, world.server)
            worker.tell(revoked_message(read_lists(crl_pem(world.ca.revoking(server)))))
            assert is_cut(app)
            world.driver.until(lambda: not world.here.far_networks.links)
            assert counts(world.here, REJECTIONS) == {("source",): 1}
            assert world.here.pool.links, "the gateway's own certificate is good"
        finally:
            worker.close()
