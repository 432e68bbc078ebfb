"""Bytes that are thrown away are accounted for: nothing is left of them in what a connection counts as unread.

A connection carries many tunnels and counts in one sum what none of them has consumed yet. What is forgotten there
is said of the connection for as long as it lives.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.parting import PATIENCE_S
from agent.net.tunnel import Tunnel
from agent.wire.h2_events import MIB
from agent.wire.h2_frames import ErrorCode
from tests.support.netpair import Hbone, Node, Relayed, node
from tests.support.playbook import data
from tests.support.traffic import Flow

SIZE = 12 * MIB


def lost_bytes(hbone: Hbone) -> int:
    """What the server believes to be unread."""
    return hbone.server.standstill.unread_bytes


def stuff(hbone: Hbone, relayed: Relayed) -> None:
    """Fill the tunnel towards an application that does not read, until its relay holds a backlog."""
    flow = Flow(relayed.client, relayed.server, SIZE, 1)
    for _ in range(200):
        flow.push()
        hbone.node.loop.turn(0.001)
    assert relayed.server_relay._backlog and lost_bytes(hbone) == hbone.node.loop.backlogs.total_bytes > 0


ENDS: dict[str, Callable[[Hbone, Relayed], object]] = {
    "policy cuts it": lambda hbone, relayed: relayed.server_relay.abort(Outcome.POLICY_CHANGED, "denied"),
    "the application resets": lambda hbone, relayed: close(relayed.server, reset=True),
    "the peer resets with an error": lambda hbone, relayed: relayed.client_relay._tunnel.link.reset_tunnel(
        relayed.client_relay._tunnel, ErrorCode.INTERNAL_ERROR
    ),
    "its relay has a defect": lambda hbone, relayed: relayed.server_relay._on_crash(ValueError("defect")),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_a_backlog_that_is_dropped_gives_its_credit_back(end: Callable[[Hbone, Relayed], object]) -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        stuff(hbone, relayed)
        end(hbone, relayed)
        it.settle()
        it.skew_s = PATIENCE_S + 1  # of the reset that waits for a reader
        it.until(lambda: relayed.server_relay in relayed.done)
        relayed.client_relay.abort()
        it.settle()
        assert lost_bytes(hbone) == it.loop.backlogs.total_bytes == 0


def test_a_backlog_that_is_still_read_gives_its_credit_back() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        stuff(hbone, relayed)
        relayed.client_relay.abort()
        got = len(relayed.read_reset(relayed.server))
        it.until(lambda: relayed.server_relay in relayed.done)
        assert got and lost_bytes(hbone) == it.loop.backlogs.total_bytes == 0


def early(it: Node, hbone: Hbone) -> Tunnel:
    """A request the server has not answered yet, with bytes right behind it; the server's end of it."""
    asked = hbone.ask()
    it.until(lambda: hbone.server_side.requests)
    assert asked.stream is not None
    hbone.client._codec.out += data(asked.stream.id, b"x" * 10_000)
    hbone.client.stage.flush_soon()
    it.until(lambda: lost_bytes(hbone) == 10_000)
    return hbone.server_side.requests[0][0]


@pytest.mark.parametrize(
    "end", [lambda tunnel: tunnel.refuse(401), Tunnel.reset], ids=["refused", "reset here"]
)
def test_early_bytes_of_a_request_that_comes_to_nothing_give_their_credit_back(
    end: Callable[[Tunnel], None],
) -> None:
    with node() as it:
        hbone = Hbone(it)
        end(early(it, hbone))
        assert lost_bytes(hbone) == 0


def test_early_bytes_of_a_request_that_is_taken_back_give_their_credit_back() -> None:
    with node() as it:
        hbone = Hbone(it)
        early(it, hbone)
        hbone.client._codec.reset(next(iter(hbone.client._codec.streams.values())), ErrorCode.CANCEL)
        hbone.client.stage.flush_soon()
        it.until(lambda: not hbone.server._codec.streams)
        assert lost_bytes(hbone) == 0


def test_bytes_behind_a_reset_give_their_credit_back() -> None:
    """The peer had sent them before it heard of the reset, the last frame only in part."""
    with node() as it:
        hbone = Hbone(it)
        outer, inner = hbone.tunnel()
        assert outer.stream is not None
        codec = hbone.client._codec
        whole = data(outer.stream.id, b"x" * 50_000)
        codec.out += whole[:30_000]
        hbone.client.stage.flush()
        it.until(lambda: hbone.server._codec._data_left == 20_000 + len(whole) - 50_000)
        inner.reset()
        codec.out += whole[30_000:] + data(outer.stream.id, b"y" * 500)
        hbone.client.stage.flush()
        it.until(lambda: hbone.server._codec._consumed == 50_500)
        assert lost_bytes(hbone) == 0


def test_bytes_behind_a_request_that_is_refused_at_once_give_their_credit_back() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        hbone.server_side.on_request = lambda tunnel: tunnel.refuse(401)
        codec = hbone.client._codec
        stream = codec.open("10.0.0.1:80", [])
        codec.out += data(stream.id, b"x" * 10_000)
        hbone.client.stage.flush()  # both in one flight
        it.until(lambda: hbone.server._codec._consumed == 10_000)
        assert lost_bytes(hbone) == 0


def test_bytes_for_an_application_that_is_gone_give_their_credit_back() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        close(relayed.server, reset=True)
        relayed.client.send(b"x" * 10_000)  # both in one round
        it.until(lambda: relayed.server_relay in relayed.done and hbone.server._codec._consumed == 10_000)
        assert lost_bytes(hbone) == 0


def test_many_cut_tunnels_leave_room_for_the_next() -> None:
    """Each takes up to its window from that of all: what they do not give back would stop the last one."""
    with node() as it:
        hbone = Hbone(it)
        for _ in range(6):
            relayed = hbone.relayed()
            stuff(hbone, relayed)
            relayed.server_relay.abort(Outcome.POLICY_CHANGED, "denied")
            it.until(lambda relayed=relayed: len(relayed.done) == 2)
        last = hbone.relayed()
        flow = Flow(last.client, last.server, 20 * MIB, 3)
        it.until(flow.step)
        assert flow.got == flow.data
