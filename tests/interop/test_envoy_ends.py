"""Resets and cuts with the real Envoy at the other end, in both roles: what its applications and ours see of them."""

from __future__ import annotations

import pytest

from agent.model.outcome import Outcome
from agent.net.farewell import close
from tests.support.envoy_pair import accept, dial, envoy_client, envoy_server
from tests.support.netpair import read_reset
from tests.support.traffic import take_into

pytestmark = pytest.mark.envoy


def test_envoy_as_client_passes_our_applications_reset_on_behind_its_bytes() -> None:
    with envoy_client() as (it, server, peer):
        client = dial(it, peer.listen)
        it.until(lambda: server.apps)
        server.apps[0].send(b"PART")
        it.settle()
        close(server.apps[0], reset=True)
        assert read_reset(it, client) == b"PART"
        it.until(lambda: server.done)
        assert (server.done[0].outcome, server.done[0].error) == (
            Outcome.RESET,
            "the server reset the connection",
        )


@pytest.mark.parametrize("outcome", [Outcome.POLICY_CHANGED, Outcome.DRAINED, Outcome.RESET])
def test_envoy_as_client_passes_every_cut_on_as_a_reset(outcome: Outcome) -> None:
    with envoy_client() as (it, server, peer):
        client = dial(it, peer.listen)
        it.until(lambda: server.apps)
        server.apps[0].send(b"half of the ans")
        got = bytearray()
        it.until(lambda: take_into(client, got) or got == b"half of the ans")
        server.relays[0].abort(outcome, "here")
        assert read_reset(it, client) == b""


def test_a_reset_of_envoys_client_is_one_for_our_application() -> None:
    """It says INTERNAL_ERROR."""
    with envoy_client() as (it, server, peer):
        client = dial(it, peer.listen)
        it.until(lambda: server.apps)
        client.send(b"PART")
        got = bytearray()
        it.until(lambda: take_into(server.apps[0], got) or got == b"PART")
        close(client, reset=True)
        assert read_reset(it, server.apps[0]) == b""
        it.until(lambda: server.done)
        assert server.done[0].error == "the client's proxy ended the connection (INTERNAL_ERROR)"


def test_envoy_as_server_ends_its_application_where_our_client_resets() -> None:
    """It does so for every code of RST_STREAM; docs/WIRE.md#ends says that this remains."""
    with envoy_server() as (it, ours, listener, _):
        client = ours.connect()
        server = accept(it, listener)
        client.send(b"PART")
        got = bytearray()
        it.until(lambda: take_into(server, got) or got == b"PART")
        close(client, reset=True)
        it.until(lambda: take_into(server, bytearray()))
        it.until(lambda: ours.done)
        assert (ours.done[0].outcome, ours.done[0].error) == (
            Outcome.RESET,
            "the client reset the connection",
        )


def test_a_reset_of_envoys_server_is_one_for_our_client() -> None:
    with envoy_server() as (it, ours, listener, _):
        client = ours.connect()
        server = accept(it, listener)
        server.send(b"half of the ans")
        got = bytearray()
        it.until(lambda: take_into(client, got) or got == b"half of the ans")
        close(server, reset=True)
        assert read_reset(it, client) == b""
        it.until(lambda: ours.done)
        assert ours.done[0].outcome is Outcome.RESET and "the server" in ours.done[0].error


def test_an_answer_of_envoys_server_that_ends_is_an_end_though_the_request_is_reset_then() -> None:
    """What a server does that closes after its answer: Envoy says END_STREAM and then NO_ERROR."""
    with envoy_server() as (it, ours, listener, _):
        client = ours.connect()
        server = accept(it, listener)
        client.send(b"question")
        got = bytearray()
        it.until(lambda: take_into(server, got) or got == b"question")
        server.send(b"answer")
        server.close()
        got = bytearray()
        it.until(lambda: take_into(client, got))
        assert got == b"answer"
        it.until(lambda: ours.done)
        assert (ours.done[0].outcome, ours.done[0].error) == (Outcome.OK, "")
