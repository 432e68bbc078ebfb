"""A policy that control refused, told to a worker as control tells it: live and new connections, and the log."""

from __future__ import annotations

from agent import channel
from agent.wire.xds_delta import AUTHORIZATION
from tests.support.told_worker import orders_of
from tests.support.two_nodes import World, ended, exchange

WRONG = ("apps/wrong", "rules[0].clauses[0]: no kind of match is set", "Namespace", "apps", False)
REASON = "policy apps/wrong was refused by this agent (rules[0].clauses[0]: no kind of match is set)"


def tell(world: World, *refused: tuple[str, str, str, str, bool], full: bool = False) -> None:
    """One message, through the channel's own form."""
    message = channel.Resources(1, AUTHORIZATION, (), (), full, refused)
    frame = channel.encode(message)[channel.PREFIX.size :]
    orders = orders_of(world.there)
    world.driver.call(lambda: list(orders.carry_out(channel.decode(frame), (), lambda _: None) or ()))


def test_a_refused_policy_about_everybody_ends_what_it_may_forbid(world: World) -> None:
    live = world.connect()
    live.sendall(b"x")
    assert live.recv(1) == b"x"
    tell(world, WRONG)
    assert ended(live)
    assert any(f"due to policy change: {REASON}" in line for line in world.there.lines)
    assert ended(world.connect())
    world.driver.until(lambda: any(f"POLICY_DENIED: {REASON}" in line for line in world.there.lines))


def test_it_is_over_when_control_says_so(world: World) -> None:
    for full in (False, True):
        tell(world, WRONG, full=full)
        assert ended(world.connect())
        tell(world, full=full)
        assert exchange(world.connect()) == b"hello"
