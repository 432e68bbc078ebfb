"""Whatever a stranger sends instead of a handshake, or changes in one, ends in a HandshakeError."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.identity.handshake import HandshakeError, Session
from tests.support.netpair import CLIENT, SERVER


def feed(session: Session, data: bytes, cuts: list[int]) -> None:
    """Feed in pieces; a refusal must be a HandshakeError, and nothing may come to be done."""
    try:
        for cut in [*cuts, len(data)]:
            session.feed(data[:cut])
            data = data[cut:]
    except HandshakeError as error:
        assert error.detail
    assert not session.done


@settings(max_examples=150)
@given(st.binary(max_size=400), st.lists(st.integers(0, 100), max_size=5))
def test_noise_to_a_server(noise: bytes, cuts: list[int]) -> None:
    feed(Session.server(SERVER), noise, cuts)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from([20, 21, 22, 23]), st.binary(max_size=80)), max_size=6))
def test_records_of_noise_to_both_ends(records: list[tuple[int, bytes]]) -> None:
    data = b"".join(bytes((kind, 3, 3)) + len(body).to_bytes(2, "big") + body for kind, body in records)
    feed(Session.server(SERVER), data, [])
    feed(Session.client(CLIENT, (SERVER.identity,)), data, [])


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 255), st.lists(st.integers(1, 900), max_size=4))
def test_a_changed_flight_is_refused_by_the_client(at: int, change: int, cuts: list[int]) -> None:
    client, server = Session.client(CLIENT, (SERVER.identity,)), Session.server(SERVER)
    server.feed(client.outgoing())
    flight = bytearray(server.outgoing())
    # Not the first byte of a record's version, which nobody may look at, nor the compatibility record.
    at = 5 + at % 90
    flight[at] ^= change
    feed(client, bytes(flight), cuts)
