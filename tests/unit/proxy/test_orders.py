"""Orders of the control process, over a real channel: what each does to connections, and what is answered."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import time
from collections.abc import Iterator

import pytest

from agent import channel
from agent.model.listener import HBONE, LISTENERS, OUTBOUND, PLAINTEXT
from agent.model.steps import PACE
from agent.model.unit import FORMAT
from agent.pb import workload_pb2
from agent.proxy.own_share import OwnShare, owner_of
from agent.wire.xds_delta import ADDRESS
from tests.support import mesh
from tests.support.certs import credentials
from tests.support.descriptors import open_descriptors
from tests.support.loopback import ours
from tests.support.told_worker import ToldWorker, same_file, secret
from tests.support.two_nodes import SERVER, World, ended, exchange

NAMES = tuple(row.name for row in LISTENERS)
CLIENT_UID = "Kubernetes//Pod/apps/client"


@contextlib.contextmanager
def listeners() -> Iterator[dict[str, socket.socket]]:
    """As control holds them, each on an address a pod of this node could be reached at."""
    with contextlib.ExitStack() as held:
        socks = {name: held.enter_context(socket.create_server((SERVER, 0))) for name in NAMES}
        for sock in socks.values():
            sock.setblocking(False)
        yield socks


def give(told: ToldWorker, owner: int, socks: dict[str, socket.socket]) -> None:
    told.tell(channel.Listeners(owner, tuple(socks)), [sock.fileno() for sock in socks.values()])


def own_hello(*, is_draining: bool) -> channel.Hello:
    """Of a worker that serves no listener."""
    return channel.Hello(3, os.getpid(), [], "0.1+test", is_draining, channel.PROTOCOL, [FORMAT])


def test_workers_hear_of_what_cannot_be_used_with_the_state_and_no_more_when_it_can(told: ToldWorker) -> None:
    held = told.plane.store
    for full, unusable in ((True, ["/10.9.9.9", "n1/10.8.0.0/16", "*"]), (False, ["/10.9.9.9"]), (False, [])):
        told.tell(channel.Resources(4, ADDRESS, [], full=full, unusable=unusable))
        assert list(held.current.refused_addresses.texts()) == unusable


# -- listeners


def test_a_worker_says_who_it_is_and_which_listeners_it_serves(told: ToldWorker) -> None:
    hello, fds = told.introduced()
    assert hello == own_hello(is_draining=False) and not fds
    with listeners() as first, listeners() as second:
        give(told, 0, first)
        give(told, 5, second)
        hello, fds = told.introduced()
        assert [tuple(row) for row in hello.served] == [(owner, name) for owner in (0, 5) for name in NAMES]
        held = [*first.values(), *second.values()]
        assert all(same_file(fd, sock.fileno()) for fd, sock in zip(fds, held, strict=True))
        for fd in fds:
            os.close(fd)


def test_each_listener_leads_to_its_own_handler(told: ToldWorker, world: World) -> None:
    with listeners() as socks:
        give(told, 0, socks)
        plain = socket.create_connection(socks[PLAINTEXT.name].getsockname(), source_address=(ours("5.5"), 0))
        world.driver.until(lambda: bool(world.there.lines))
        assert "inbound" in world.there.lines.pop() and ended(plain), "nobody listens at that port of the pod"
        hbone = socket.create_connection(socks[HBONE.name].getsockname())
        world.driver.until(lambda: world.there.inbound.held == 1)
        hbone.close()
        world.driver.until(lambda: not world.there.inbound.held)
        world.there.lines.clear()
        outbound = socket.create_connection(
            socks[OUTBOUND.name].getsockname(), source_address=(ours("1.9"), 0)
        )
        world.driver.until(lambda: bool(world.there.lines))
        assert f"{ours('1.9')} belongs to no enrolled pod" in world.there.lines[0] and ended(outbound)


def test_a_released_listener_keeps_its_queue_for_another(told: ToldWorker, world: World) -> None:
    with listeners() as socks:
        give(told, 0, socks)
        told.tell(channel.Release(0))
        assert not told.introduced()[0].served
        with socket.create_connection(socks[HBONE.name].getsockname()) as waiting:
            world.driver.call(lambda: None)
            assert not world.there.inbound.held
            give(told, 0, socks)
            world.driver.until(lambda: world.there.inbound.held == 1)
            waiting.close()
        told.tell(channel.Release(7))  # not served: nothing to do


def test_a_worker_is_told_by_which_key_the_kernel_chooses(told: ToldWorker, world: World) -> None:
    """So that it finds the ports by which it dials itself."""
    ends = mesh.at("10.1.0.1:40000"), mesh.at("10.1.0.2:80")
    share = world.there.share = OwnShare(2, time.monotonic)
    share.take(0)
    found = set()
    for key in range(0, 0xFFFFFFFF, 0x01234567):
        told.tell(channel.ChoiceKey(key))
        assert share.has(*ends) is (owner_of(*ends, 2, key) == 0)
        found.add(share.has(*ends))
    assert found == {True, False}


def test_listeners_given_again_take_the_place_of_the_former(told: ToldWorker) -> None:
    gc.collect()  # what tests before have left is not to be closed meanwhile
    with listeners() as first, listeners() as second:
        before = open_descriptors()
        give(told, 0, first)
        give(told, 0, second)
        assert open_descriptors() == before + len(NAMES)
        _, fds = told.introduced()
        assert all(same_file(fd, s.fileno()) for fd, s in zip(fds, second.values(), strict=True))
        for fd in fds:
            os.close(fd)


def test_an_unknown_listener_is_a_broken_channel_and_nothing_is_kept(told: ToldWorker) -> None:
    with socket.create_server((SERVER, 0)) as strange:
        before = open_descriptors()
        with pytest.raises(channel.ChannelError, match="cannot serve socks5"):
            give(told, 0, {"socks5": strange})
        assert open_descriptors() == before


def test_what_only_a_worker_says_is_a_broken_channel(told: ToldWorker) -> None:
    with pytest.raises(channel.ChannelError, match="does not take Applied"):
        told.tell(channel.Applied(1))


# -- state


def test_applied_means_that_live_connections_were_judged_by_it(told: ToldWorker, world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    told.deny(41, "client")
    applied, _ = told.hear(channel.Applied)
    assert applied.revision == 41
    assert ended(app) and ended(world.connect())
    world.driver.until(lambda: bool(world.there.lines))
    assert "connection closed due to policy change" in world.there.lines[0]


def test_a_full_list_of_workloads_takes_what_is_not_in_it_away(told: ToldWorker, world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    workload = workload_pb2.Workload(
        uid="other", name="other", namespace="apps", addresses=[bytes([10, 0, 0, 9])]
    )
    update = ("other", workload_pb2.Address(workload=workload).SerializeToString())
    told.tell(channel.Resources(1, ADDRESS, [update]))
    told.hear(channel.Applied)
    assert {w.name for w in world.there.store.current.workloads.values()} == {"client", "server", "other"}
    told.tell(channel.Resources(2, ADDRESS, [update], full=True))
    told.hear(channel.Applied)
    assert {w.name for w in world.there.store.current.workloads.values()} == {"other"}
    assert ended(app), "the destination is gone"


def workloads(count: int) -> list[tuple[str, bytes]]:
    """Names and bytes of pods on another node."""
    made = []
    for n in range(count):
        address = bytes([10, 9, n >> 8, n & 255])
        pod = workload_pb2.Workload(
            uid=f"w{n}", name=f"w{n}", namespace="apps", node="far", addresses=[address]
        )
        made.append((f"w{n}", workload_pb2.Address(workload=pod).SerializeToString()))
    return made


def test_a_large_change_is_seen_whole_or_not_at_all_and_answered_when_it_is_in_force(
    told: ToldWorker, world: World
) -> None:
    """In parts, each in steps: whoever is judged between two of them is judged by what was before."""
    many = workloads(1000)
    before = world.there.store.current
    parts = [
        channel.Resources(4, ADDRESS, many[:400], is_last=False),
        channel.Resources(4, ADDRESS, many[400:], [CLIENT_UID]),
    ]
    replies: list[channel.Message] = []
    steps = 0

    def carry_out(part: channel.Resources) -> None:
        nonlocal steps
        for _ in told.orders.carry_out(part, (), replies.append) or ():
            steps += 1
            known = world.there.store.current.workloads
            assert len(known) in (len(before.workloads), len(before.workloads) + 999) and not replies
            assert (CLIENT_UID in known) != ("w0" in known) == ("w999" in known)

    for part in parts:
        world.driver.call(lambda part=part: carry_out(part))
    assert steps > 2 * 1000 // PACE, "decoding and applying both rest"
    assert replies == [channel.Applied(4)]
    after = world.there.store.current
    assert after.workloads.keys() == before.workloads.keys() - {CLIENT_UID} | {name for name, _ in many}


def test_the_garbage_collector_rests_during_a_large_change_and_never_walks_what_it_brought(
    told: ToldWorker, world: World
) -> None:
    first, second = workloads(2)
    gc.unfreeze()
    try:
        told.tell(channel.Resources(4, ADDRESS, [first], is_last=False))
        assert not gc.isenabled()
        told.tell(channel.Resources(4, ADDRESS, [second]))
        told.hear(channel.Applied)
        assert gc.isenabled()
        walked = {id(thing) for thing in gc.get_objects()}
        assert walked.isdisjoint(map(id, world.there.store.current.workloads.values()))
        frozen = gc.get_freeze_count()
        told.tell(channel.Resources(5, ADDRESS, workloads(3)))
        told.hear(channel.Applied)
        assert gc.get_freeze_count() <= frozen, "a small one is left to it"
        told.tell(channel.Resources(6, ADDRESS, [first], is_last=False))
        told.orders.left_alone()
        assert gc.isenabled(), "a change without its end does not leave it off"
        told.tell(channel.Resources(1, ADDRESS, [second]))
        told.hear(channel.Applied)
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_change_without_its_end_is_a_broken_channel_unless_control_began_anew(
    told: ToldWorker, world: World
) -> None:
    first, second, third = workloads(3)
    told.tell(channel.Resources(4, ADDRESS, [first], is_last=False))
    with pytest.raises(channel.ChannelError, match="a change without its end, before revision 5"):
        told.tell(channel.Resources(5, ADDRESS, [second]))
    told.introduced()  # and the collector is on again
    told.tell(channel.Resources(1, ADDRESS, [third]))
    told.hear(channel.Applied)
    assert {"w2"} == world.there.store.current.workloads.keys() & {"w0", "w1", "w2"}


def test_an_unknown_type_of_resource_is_a_broken_channel_and_not_applied(told: ToldWorker) -> None:
    with pytest.raises(channel.ChannelError, match="resource type strange"):
        told.tell(channel.Resources(1, "strange", []))


def test_a_certificate_arrives_whole_and_can_be_taken_back(told: ToldWorker, world: World) -> None:
    mine = credentials(world.ca, "spiffe://cluster.local/ns/apps/sa/new")
    told.tell(secret(mine))
    held = world.there.secrets.get(mine.identity)
    assert (held.chain, held.roots) == (mine.chain, mine.roots)
    assert held.key.private_numbers() == mine.key.private_numbers()
    server = world.there.secrets.get(world.server.identity)
    told.tell(channel.ForgetSecret(str(server.identity)))
    assert ended(world.connect())
    told.tell(secret(server))
    assert exchange(world.connect()) == b"hello"


# -- while draining


# The silent one is not given up meanwhile.
@pytest.mark.parametrize("world", [{"handshake_timeout_s": "60"}], indirect=True, ids=["patient"])
def test_a_draining_worker_takes_no_listeners_and_says_so(told: ToldWorker, world: World) -> None:
    with listeners() as socks, socket.create_connection((SERVER, 15008)) as silent:
        give(told, 0, socks)
        world.driver.until(lambda: world.there.inbound.held == 1)  # so that the drain is not over at once
        before = open_descriptors()
        told.tell(channel.Drain(60.0))
        assert open_descriptors() == before - len(NAMES)
        give(told, 0, socks)  # it was on its way already
        assert open_descriptors() == before - len(NAMES)
        assert told.introduced()[0] == own_hello(is_draining=True)
        with socket.create_connection(socks[PLAINTEXT.name].getsockname()):
            world.driver.call(lambda: None)
            socks[PLAINTEXT.name].accept()[0].close()  # still in the queue, for another worker
        silent.close()


def test_a_draining_worker_goes_on_to_follow_state_certificates_and_pods(
    told: ToldWorker, world: World
) -> None:
    other = mesh.workload("other", ours("1.2"), service_account="other")
    world.driver.call(lambda: (world.here.know(other), world.there.know(other), world.here.add_pod(other)))
    told.tell(channel.Pods([("apps", "server", "server", (SERVER,))]))
    apps = [world.connect()]
    second = world.driver.call(lambda: world.here.capture(ours("1.2"), mesh.at(f"{SERVER}:8080")))
    assert isinstance(second, socket.socket)
    second.settimeout(5)
    for app in (*apps, second):
        app.sendall(b"x")
        assert app.recv(1) == b"x"
    told.tell(channel.Drain(60.0))
    told.deny(9, "client")
    assert told.hear(channel.Applied)[0].revision == 9
    assert ended(apps[0]) and not told.ended, "cut at once, long before the deadline"
    renewed = credentials(world.ca, str(world.server.identity))
    told.tell(secret(renewed))
    assert world.there.secrets.get(renewed.identity).chain == renewed.chain
    second.sendall(b"y")
    assert second.recv(1) == b"y"
    stats = world.driver.call(told.orders.stats)
    assert isinstance(stats, channel.Stats) and stats.connections == 1
    told.tell(channel.Pods([]))
    assert ended(second)
    world.driver.until(lambda: told.ended == 1)


def test_figures_are_told_whole_until_their_hearer_says_that_it_remembers_and_again_to_the_next(
    told: ToldWorker, world: World
) -> None:
    def told_of() -> int:
        stats = world.driver.call(told.orders.stats)
        assert isinstance(stats, channel.Stats)
        return len(stats.metrics["tcp"])

    with world.connect() as app:
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        assert told_of() and told_of(), "a control process that has not said it may be of an older build"
        told.tell(channel.TakesChanges())
        assert told_of(), "it may have heard nothing before"
        assert not told_of()
        app.sendall(b"y")
        assert app.recv(1) == b"y"
        assert told_of() and not told_of()
        told.introduced()
        assert told_of() and told_of(), "the next control process has heard nothing"


# -- between two agents


def test_a_worker_whose_agent_ends_goes_on_for_so_long_and_then_ends(told: ToldWorker) -> None:
    told.tell(channel.GoOn(number=7, patience_s=60.0, drain_s=0.0))
    answer, _ = told.hear(channel.Answer)
    assert answer.number == 7, "who ends has to know that it was heard"
    told.driver.skew_s = 59.0
    told.driver.call(lambda: None)
    assert not told.ended
    told.driver.skew_s = 61.0
    told.driver.until(lambda: told.ended == 1)


def test_a_worker_that_the_next_agent_has_found_does_not_end(told: ToldWorker) -> None:
    told.tell(channel.GoOn(number=7, patience_s=60.0, drain_s=0.0))
    told.hear(channel.Answer)
    told.introduced()
    told.driver.skew_s = 61.0
    # Whatever was due is done by the turn after this one.
    for _ in range(3):
        told.driver.call(lambda: None)
    assert not told.ended
