"""Certificates at their end: one that has expired proves nothing, so it is neither shown nor used, at either end."""

from __future__ import annotations

import time

import pytest

from agent.model.outcome import Outcome, Refusal
from agent.proxy.secrets import Secrets
from tests.support.certs import TestCA, credentials
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
