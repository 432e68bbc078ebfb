"""A policy that allows one key exchange: it is used, and who has it not, or cannot prove it, is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from OpenSSL import SSL

from agent.identity import credentials as made_by
from agent.identity.credentials import Credentials
from agent.identity.faults import Fault
from agent.identity.handshake import HandshakeError, Session
from agent.identity.key_exchange import POST_QUANTUM, can_narrow, narrow
from agent.model.identity import Identity
from agent.model.outcome import Refusal
from tests.support.certs import TestCA, credentials
from tests.support.handshakes import shake

CA = TestCA()
A, B = "spiffe://cluster.local/ns/apps/sa/a", "spiffe://cluster.local/ns/apps/sa/b"
CLIENT, SERVER = credentials(CA, A), credentials(CA, B)
ACCEPTED = (Identity.parse(B),)
CLASSICAL = "X25519"


def allowing(who: Credentials, group: str) -> Credentials:
    return replace(who, group=group)


@pytest.mark.parametrize("client", [POST_QUANTUM, ""])
@pytest.mark.parametrize("server", [POST_QUANTUM, ""])
def test_two_that_have_it_use_it(client: str, server: str) -> None:
    ends = shake(allowing(CLIENT, client), allowing(SERVER, server), ACCEPTED)
    assert [end.secured.group for end in ends] == [POST_QUANTUM] * 2


@pytest.mark.parametrize("group", [CLASSICAL, "P-256:P-384", "MLKEM768", "SecP256r1MLKEM768"])
def test_a_server_refuses_a_client_that_has_it_not(group: str) -> None:
    one, two = (
        Session.client(allowing(CLIENT, group), ACCEPTED),
        Session.server(allowing(SERVER, POST_QUANTUM)),
    )
    with pytest.raises(HandshakeError, match=f"allows the key exchange {POST_QUANTUM} alone") as refused:
        two.feed(one.outgoing())
    assert refused.value.fault is Fault.KEY_EXCHANGE
    with pytest.raises(HandshakeError, match="handshake failure"):
        one.feed(two.outgoing())


def test_a_client_refuses_a_server_that_has_it_not() -> None:
    one, two = (
        Session.client(allowing(CLIENT, POST_QUANTUM), ACCEPTED),
        Session.server(allowing(SERVER, CLASSICAL)),
    )
    with pytest.raises(HandshakeError):
        two.feed(one.outgoing())
    with pytest.raises(HandshakeError, match=f"allows the key exchange {POST_QUANTUM} alone") as refused:
        one.feed(two.outgoing())
    assert refused.value.fault is Fault.KEY_EXCHANGE


def test_a_client_that_would_rather_have_another_is_asked_for_it() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    narrow(context, f"{CLASSICAL}:{POST_QUANTUM}")
    context.set_alpn_protos([b"h2"])
    context.use_privatekey(CLIENT.key)
    context.use_certificate(CLIENT.chain[0])
    peer, session = SSL.Connection(context, None), Session.server(allowing(SERVER, POST_QUANTUM))
    peer.set_connect_state()
    for _ in range(3):
        try:
            peer.do_handshake()
        except SSL.WantReadError:
            pass
        session.feed(peer.bio_read(1 << 16))
        if not session.done:
            peer.bio_write(session.outgoing())
    assert session.secured.group == peer.get_group_name() == POST_QUANTUM


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts that take no notice of what they were told."""
    monkeypatch.setattr(made_by, "narrow", lambda context, group: None)


@pytest.mark.usefixtures("unheard")
def test_a_server_looks_at_what_was_used_all_the_same() -> None:
    peer = replace(CLIENT)
    narrow(peer.client_context, CLASSICAL)
    one, two = Session.client(peer, ACCEPTED), Session.server(allowing(SERVER, POST_QUANTUM))
    two.feed(one.outgoing())
    one.feed(two.outgoing())
    with pytest.raises(
        HandshakeError, match=f"{POST_QUANTUM} alone; this handshake has used x25519"
    ) as refused:
        two.feed(one.outgoing())
    assert refused.value.fault is Fault.KEY_EXCHANGE and not two.done


@pytest.mark.usefixtures("unheard")
def test_a_client_looks_too_and_shows_nothing_of_its_own() -> None:
    peer = replace(SERVER)
    narrow(peer.server_context, CLASSICAL)
    one, two = Session.client(allowing(CLIENT, POST_QUANTUM), ACCEPTED), Session.server(peer)
    for _ in range(2):  # the second for the server's wish for another key share
        two.feed(one.outgoing())
        answer = two.outgoing()
        if one.done:
            break
        try:
            one.feed(answer)
        except HandshakeError as refused:
            assert refused.fault is Fault.KEY_EXCHANGE and "has used x25519" in refused.detail
            break
    else:
        pytest.fail("it was not refused")
    assert not one.done and one.outgoing() == b""


def test_what_openssl_has_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_narrow(POST_QUANTUM) == ""
    assert "has no key exchange X448MLKEM1" in can_narrow("X448MLKEM1") and "OpenSSL " in can_narrow(
        "X448MLKEM1"
    )
    with pytest.raises(Refusal, match="X448MLKEM1"):
        Session.server(allowing(SERVER, "X448MLKEM1"))
    context = SSL.Context(SSL.TLS_METHOD)
    monkeypatch.setattr(SSL, "_lib", object())
    monkeypatch.setattr(SSL, "OpenSSL_version", lambda _: b"OpenSSL 3.0.0")
    with pytest.raises(Refusal, match="no binding for it"):
        narrow(context, POST_QUANTUM)
