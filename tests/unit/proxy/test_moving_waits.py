"""What is on its way to somewhere moves as it is; what cannot says why, and goes on where it was."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from agent.briefing import revoked_message
from agent.identity.revocation_file import read_lists
from agent.model.address import SocketAddress, parse_ip
from agent.model.listener import SOCKS5_PORT
from agent.model.outcome import Refusal
from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.model.unit import decode, encode
from agent.net.farewell import close
from agent.proxy.local import HandedOver
from agent.proxy.moving import immovable, movables, thaw
from agent.proxy.own_share import SETTLES_S
from agent.state.apply import Batch
from tests.support import mesh
from tests.support.certs import crl_pem
from tests.support.client_hello import hello
from tests.support.datapath import PROXY, DataPath, stream_pair
from tests.support.descriptors import open_descriptors
from tests.support.loopback import ours
from tests.support.moves import (
    Handing,
    accepted_from,
    counts,
    dialling,
    filled,
    left,
    move,
    sockets_open,
    successor,
)
from tests.support.told_worker import ToldWorker
from tests.support.two_networks import running as two_networks
from tests.support.two_nodes import CLIENT, SERVER, World, ended, exchange

OUTSIDE, AWAY = ours("5.5"), ours("6.6")
STRICT = mesh.policy("strict", Action.DENY, Match(not_principals=(StringMatch(StringMatchKind.PRESENCE),)))
NO_CLIENT = mesh.policy(
    "no-client", Action.DENY, Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/client"),))
)
PATIENT = {"connect_timeout_s": "20"}
"""However busy the machine is: a SYN that nobody answered is sent again after one second, three, and seven."""
HAND_OVER = {"local_path": "handover", **PATIENT}

Begin = Callable[[World], tuple[DataPath, socket.socket]]


def passing_through(world: World) -> tuple[DataPath, socket.socket]:
    return world.here, world.connect(f"{AWAY}:8082")


def coming_plainly(world: World) -> tuple[DataPath, socket.socket]:
    app, captured = stream_pair(OUTSIDE)
    captured.setblocking(False)
    peer = mesh.at(f"{OUTSIDE}:{app.getsockname()[1]}")
    world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, mesh.at(f"{SERVER}:8082")))
    app.settimeout(5)
    return world.there, app


def handed_over(world: World, target: SocketAddress | None = None) -> tuple[DataPath, socket.socket]:
    def capture() -> socket.socket:
        world.there.add_pod(world.client, listening=False)
        return world.there.capture(CLIENT, target or mesh.at(f"{SERVER}:8082"))

    app = world.driver.call(capture)
    assert isinstance(app, socket.socket)
    app.settimeout(5)
    return world.there, app


def heir(world: World, of: DataPath, **options: str) -> DataPath:
    """A successor that knows both pods where `of` does."""
    made = successor(world, of, **options)
    world.driver.call(lambda: made.add_pod(world.client, listening=False))
    return made


WAYS = pytest.mark.parametrize(
    ("world", "begin", "where", "client", "records"),
    [
        (PATIENT, passing_through, AWAY, CLIENT, 1),
        (PATIENT, coming_plainly, SERVER, OUTSIDE, 1),
        (HAND_OVER, handed_over, SERVER, CLIENT, 2),
    ],
    indirect=["world"],
    ids=["passthrough", "plaintext", "inside the node"],
)


@WAYS
def test_a_dial_goes_on_and_is_answered(
    world: World, begin: Begin, where: str, client: str, records: int
) -> None:
    with filled(where, 8082) as (listener, make_room):
        giver, app = begin(world)
        world.driver.until(lambda: dialling(giver) == 1)
        taker = heir(world, giver, **(HAND_OVER if records == 2 else PATIENT))
        assert move(world, giver, taker) == ["dial"]
        assert world.driver.call(lambda: (len(giver.registry), len(taker.registry))) == (0, records)
        assert world.driver.call(lambda: (sockets_open(giver), sockets_open(taker))) == (0, records)
        make_room()
        app.settimeout(30)
        with accepted_from(listener, client) as served, app:
            app.sendall(b"question")
            assert served.recv(8, socket.MSG_WAITALL) == b"question"
            served.sendall(b"answer")
            assert app.recv(6, socket.MSG_WAITALL) == b"answer"
    world.driver.until(lambda: counts(giver, taker)[:3] == (records, records, 0))
    assert not giver.lines and len(taker.lines) == records


@WAYS
def test_a_dial_that_nobody_took_goes_on_here_with_the_time_it_has_left(
    world: World, begin: Begin, where: str, client: str, records: int
) -> None:
    with filled(where, 8082):
        giver, app = begin(world)
        world.driver.until(lambda: dialling(giver) == 1)
        taker = heir(world, giver, **(HAND_OVER if records == 2 else PATIENT))
        world.driver.skew_s += 15.0
        assert move(world, giver, taker, end=Handing.no) == ["dial"]
        assert world.driver.call(lambda: (dialling(giver), len(taker.registry))) == (1, 0)
        world.driver.skew_s += 10.0
        assert ended(app)
    world.driver.until(lambda: len(giver.lines) == records)
    assert all("CONNECT_TIMEOUT" in line for line in giver.lines)


@WAYS
def test_a_policy_that_comes_while_it_is_dialled_has_its_say(
    world: World, begin: Begin, where: str, client: str, records: int
) -> None:
    policy = ("apps/no-client", NO_CLIENT) if records == 2 else ("apps/strict", STRICT)
    with filled(where, 8082):
        giver, app = begin(world)
        world.driver.until(lambda: dialling(giver) == 1)
        taker = heir(world, giver, **(HAND_OVER if records == 2 else PATIENT))
        move(world, giver, taker, lambda: taker.store.apply(Batch(authorizations=(policy,))))
        if begin is passing_through:  # of what leaves the mesh no policy of ours judges
            assert world.driver.call(lambda: dialling(taker)) == 1
            app.close()
            return
        assert ended(app)
        assert world.driver.call(lambda: (dialling(taker), len(taker.registry))) == (0, 0)
    world.driver.until(lambda: len(taker.lines) == records)
    assert all(policy[0] in line and "POLICY_CHANGED" in line for line in taker.lines)


BY_THE_HOST = {"local_path": "host", "workers": "1"}


@pytest.mark.parametrize("world", [BY_THE_HOST], indirect=True)
def test_what_crosses_the_host_goes_along_and_still_ends_it(world: World) -> None:
    with socket.create_server((SERVER, 0)) as listener:
        listener.settimeout(10)
        target = SocketAddress.from_sockname(listener.getsockname())
        world.driver.call(lambda: world.there.share.take(0))
        world.driver.skew_s += SETTLES_S
        giver, app = handed_over(world, target)
        crossing, peer = listener.accept()
        crossing.setblocking(False)
        at = SocketAddress.from_sockname(peer)
        reasons: list[str] = []

        def arrive() -> None:
            reasons.extend(each.why for each in immovable(giver))
            giver.inbound_plain.accepted(crossing, at, target)

        world.driver.call(arrive)
        assert reasons == ["it is on its way by the host"]
        with accepted_from(listener) as served, app:
            app.sendall(b"x")
            assert served.recv(1) == b"x"
            plain = heir(world, giver)  # which knows nothing of such ways
            refused = world.driver.call(lambda: tried(giver, plain))
            assert "by way of the host" in str(refused)
            taker = heir(world, giver, **BY_THE_HOST)
            assert move(world, giver, taker) == ["relay"]
            served.sendall(b"y")
            assert app.recv(1) == b"y"

            def cut() -> None:
                (half,) = (live.owner for live in taker.registry if isinstance(live.owner, HandedOver))
                close(half._crossing._far, reset=True)  # so the other end sees what the host does to it

            world.driver.call(cut)
            assert ended(app)
    world.driver.until(lambda: len(taker.lines) == 2)
    assert all("the host has cut it" in line for line in taker.lines)


def tried(giver: DataPath, taker: DataPath) -> str:
    """Why the only thing that is live cannot be taken; it goes on where it was."""
    (movable,) = movables(giver)
    unit, fds = movable.freeze()
    held = open_descriptors()
    try:
        thaw(taker, decode(encode(unit)), [os.dup(fd) for fd in fds])
    except Refusal as refusal:
        return str(refusal)
    finally:
        assert open_descriptors() == held
        movable.take_back()
    return ""


@pytest.mark.parametrize("world", [{"crl_path": "/of-the-test"}], indirect=True)
@pytest.mark.parametrize("end", ["client", "server"])
def test_a_peer_that_was_revoked_meanwhile_is_cut_off(world: World, end: str) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    giver = world.here if end == "client" else world.there
    peer, its_pod = (world.there, world.server) if end == "client" else (world.here, world.client)
    taker = successor(world, giver, crl_path="/of-the-test")
    worker = ToldWorker(world.driver, taker)
    certificate = world.driver.call(lambda: peer.secrets.get(its_pod.identity).chain[0])
    worker.tell(revoked_message(read_lists(crl_pem(world.ca.revoking(certificate)))))
    assert move(world, giver, taker) == [f"{end} link"]
    assert ended(app)
    world.driver.until(lambda: bool(taker.lines))
    assert "was revoked by" in taker.lines[0]
    worker.close()


def test_a_way_into_another_network_stays_with_the_connection_that_carries_it() -> None:
    with two_networks() as world:
        app = world.connect()
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        reasons = world.driver.call(lambda: sorted(each.why for each in immovable(world.here)))
        assert reasons == [
            "it carries a connection into another network",
            "it runs in a tunnel of another connection",
        ]
        assert not world.driver.call(lambda: list(movables(world.here)))
        assert exchange(app, b"still") == b"still"


@pytest.mark.parametrize("world", [{"socks5": "true"}], indirect=True)
def test_a_client_that_has_not_said_what_it_wants_stays(world: World) -> None:
    app, captured = stream_pair(CLIENT)
    captured.setblocking(False)
    peer = SocketAddress(parse_ip(CLIENT), app.getsockname()[1])
    at = SocketAddress(PROXY.v4, SOCKS5_PORT)
    world.driver.call(lambda: world.here._captured()(captured, peer, at))
    (line,) = left(world, world.here)
    assert "SOCKS5" in line and str(peer) in line
    app.close()


def test_a_handshake_under_way_stays(world: World) -> None:
    with socket.create_connection((SERVER, 15008)) as peer:
        peer.sendall(hello())
        world.driver.until(lambda: bool(world.there.inbound.links))
        (line,) = left(world, world.there)
        assert "its TLS handshake is under way" in line
    world.driver.until(lambda: not world.there.inbound.links)
    assert not left(world, world.there)
