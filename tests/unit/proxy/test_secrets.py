"""Certificates at their end: one that has expired proves nothing, so it is neither shown nor used, at either end."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.model.outcome import Outcome, Refusal
from agent.proxy.orders import credentials as from_message
from agent.proxy.secrets import Secrets
from tests.support.certs import Issued, TestCA, credentials
from tests.support.told_worker import secret
from tests.support.two_nodes import World, ended, exchange

CLIENT_ID = "spiffe://cluster.local/ns/apps/sa/client"
HOUR_S = 3600.0


@pytest.mark.parametrize(("early_s", "is_usable"), [(1, True), (0, False), (-1, False)])
def test_a_certificate_is_used_up_to_its_expiry_and_not_at_it(early_s: float, is_usable: bool) -> None:
    mine = credentials(TestCA(), CLIENT_ID)
    secrets = Secrets(lambda: mine.not_after - early_s)
    secrets.put(mine)
    if is_usable:
        assert secrets.get(mine.identity) is mine
        return
    with pytest.raises(Refusal, match=f"the certificate of {CLIENT_ID} expired at") as refused:
        secrets.get(mine.identity)
    assert refused.value.outcome is Outcome.IDENTITY_UNAVAILABLE


def test_a_renewed_certificate_takes_the_place_of_an_expired_one() -> None:
    ca = TestCA()
    secrets = Secrets(time.time)
    secrets.put(credentials(ca, CLIENT_ID, issued=ca.expired(CLIENT_ID)))
    renewed = credentials(ca, CLIENT_ID)
    secrets.put(renewed)
    assert secrets.get(renewed.identity) is renewed
    secrets.forget(renewed.identity)
    with pytest.raises(Refusal, match="no certificate"):
        secrets.get(renewed.identity)


@pytest.mark.parametrize(("early_s", "is_usable"), [(1, True), (0, False)])
def test_a_certificate_is_used_up_to_the_end_of_what_it_rests_on(early_s: float, is_usable: bool) -> None:
    """The leaf is good for an hour more, and every peer would refuse it."""
    ca = TestCA()
    end = ca.issue(CLIENT_ID).leaf.not_valid_after_utc.timestamp() - 1800
    mine = replace(credentials(ca, CLIENT_ID), ends=end)
    secrets = Secrets(lambda: end - early_s)
    secrets.put(from_message(secret(mine)))
    if is_usable:
        assert secrets.get(mine.identity).chain == mine.chain
        return
    with pytest.raises(
        Refusal, match=f"an authority that the certificate of {CLIENT_ID} rests on expired at"
    ) as no:
        secrets.get(mine.identity)
    assert no.value.outcome is Outcome.IDENTITY_UNAVAILABLE


def test_what_came_along_and_has_expired_is_not_shown() -> None:
    """The way to an old root, for peers that know no other one."""
    ca, soon = TestCA(), datetime.now(UTC) + timedelta(minutes=5)
    signed = ca.issue(CLIENT_ID)
    bridge = TestCA("old", not_after=soon).root
    mine = credentials(ca, CLIENT_ID, issued=Issued(signed.key, [signed.leaf, bridge]))
    now = soon.timestamp() - 60
    secrets = Secrets(lambda: now)
    secrets.put(mine)
    assert secrets.get(mine.identity) is mine
    now = soon.timestamp() + 1
    assert secrets.get(mine.identity).chain == (signed.leaf,)
    assert secrets.get(mine.identity) is secrets.get(mine.identity), "its contexts are made once"


def test_a_client_whose_certificate_has_expired_dials_and_shows_nothing(world: World) -> None:
    world.here.wall_skew_s = 2 * HOUR_S  # only this node's clock: the other would take the certificate
    assert ended(world.connect())
    world.driver.until(lambda: bool(world.here.lines))
    assert f"the certificate of {CLIENT_ID} expired" in world.here.lines[0]
    assert not world.seen and not world.driver.call(lambda: len(world.here.pool.links))


def test_a_server_whose_certificate_has_expired_shows_nothing(world: World) -> None:
    world.there.wall_skew_s = 2 * HOUR_S  # only this node's clock: the client would take the certificate
    assert ended(world.connect())
    world.driver.until(lambda: bool(world.there.lines))
    assert "the certificate of spiffe://cluster.local/ns/apps/sa/server expired" in world.there.lines[0]
    assert not world.seen and not world.driver.call(lambda: len(world.there.inbound.links))
    world.there.wall_skew_s = 0.0
    assert exchange(world.connect()) == b"hello"
