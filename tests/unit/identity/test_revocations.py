"""Whom revocation lists concern, by whole handshakes; and which files of them are used."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.credentials import Credentials
from agent.identity.faults import Fault
from agent.identity.handshake import HandshakeError, Session
from agent.identity.revocation_file import BadList, read_lists
from agent.identity.revocations import RevocationList, Revocations, certified
from agent.model.outcome import Outcome
from agent.model.steps import PACE, to_the_end
from tests.support.certs import TestCA, credentials, crl_pem, pem

A, B = "spiffe://cluster.local/ns/a/sa/a", "spiffe://cluster.local/ns/b/sa/b"
ROOT = TestCA()
ISSUING = TestCA(parent=ROOT, name="issuing")
CLIENT = credentials(ROOT, A)
SERVER = credentials(ROOT, B)


def under_issuing(uri: str) -> Credentials:
    issued = ISSUING.issue(uri)
    issued.chain.append(ISSUING.root)
    return credentials(ROOT, uri, issued=issued)


def in_force(*lists: x509.CertificateRevocationList) -> Revocations:
    made = Revocations()
    to_the_end(made.replace([each.revoked for each in read_lists(crl_pem(*lists))]))
    return made


def meet(
    client: Credentials, server: Credentials, *, here: Revocations | None, there: Revocations | None
) -> None:
    one, two = Session.client(client, (server.identity,), here), Session.server(server, there)
    two.feed(one.outgoing())
    one.feed(two.outgoing())
    try:
        two.feed(one.outgoing())
    finally:
        assert two.outgoing(), "tickets, or the alert"


def test_a_revoked_client_is_refused_with_the_reason_and_counted() -> None:
    lists = in_force(ROOT.revoking(CLIENT.chain[0]))
    with pytest.raises(HandshakeError) as caught:
        meet(CLIENT, SERVER, here=None, there=lists)
    assert caught.value.fault is Fault.REVOKED and caught.value.outcome is Outcome.TLS_FAILED
    assert A in caught.value.detail and f"serial {CLIENT.chain[0].serial_number:x}" in caught.value.detail
    assert (lists.refused_clients, lists.refused_servers) == (1, 0)


def test_a_revoked_server_is_refused_and_does_not_see_our_certificate() -> None:
    lists = in_force(ROOT.revoking(SERVER.chain[0]))
    one, two = Session.client(CLIENT, (SERVER.identity,), lists), Session.server(SERVER)
    two.feed(one.outgoing())
    with pytest.raises(HandshakeError, match="was revoked by"):
        one.feed(two.outgoing())
    assert one.outgoing() == b""
    assert (lists.refused_clients, lists.refused_servers) == (0, 1)


def test_with_an_authority_everybody_under_it_is_revoked() -> None:
    with pytest.raises(HandshakeError, match=r"authority .*issuing.* was revoked by"):
        meet(under_issuing(A), SERVER, here=None, there=in_force(ROOT.revoking(ISSUING.root)))


def test_several_issuers_each_for_its_own() -> None:
    other, client = TestCA(), under_issuing(A)
    lists = in_force(other.revoking(), ROOT.revoking(), ISSUING.revoking(client.chain[0]))
    meet(CLIENT, SERVER, here=lists, there=lists)
    with pytest.raises(HandshakeError, match="revoked"):
        meet(client, SERVER, here=None, there=lists)


def test_nobody_revokes_what_another_authority_issued() -> None:
    """Not even one of the same name: the signature decides."""
    namesake = TestCA()
    assert namesake.root.subject == ROOT.root.subject
    lists = in_force(namesake.revoking(CLIENT.chain[0], SERVER.chain[0]), ISSUING.revoking(CLIENT.chain[0]))
    meet(CLIENT, SERVER, here=lists, there=lists)


def test_a_list_that_is_out_of_date_counts() -> None:
    old = ROOT.revoking(CLIENT.chain[0], next_update=CLIENT.chain[0].not_valid_before_utc)
    with pytest.raises(HandshakeError, match="revoked"):
        meet(CLIENT, SERVER, here=None, there=in_force(old))


def test_files_as_ztunnel_reads_them() -> None:
    lists = ROOT.revoking(CLIENT.chain[0]), ISSUING.revoking()
    mixed = pem(ROOT.root) + crl_pem(lists[0]) + b"\n# a remark\n" + crl_pem(lists[1]).replace(b"\n", b"\r\n")
    assert [each.revoked.serials for each in read_lists(mixed)] == [
        (f"{CLIENT.chain[0].serial_number:x}",),
        (),
    ]
    assert len(read_lists(lists[0].public_bytes(Encoding.DER))) == 1
    assert read_lists(b"") == read_lists(pem(ROOT.root)) == ()


WHOLE = crl_pem(ROOT.revoking(CLIENT.chain[0]))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (WHOLE + WHOLE[:-40], "cut off or damaged"),
        (WHOLE[30:], "cut off or damaged"),
        (WHOLE.replace(b"M", b"!"), "cut off or damaged"),
        (WHOLE[:60] + WHOLE[80:], "list 1 of it cannot be read"),
        (b"\x30\x03abc", "list 1 of it cannot be read"),
        (b"no list", "neither PEM nor DER"),
        (crl_pem(ROOT.revoking(extension=x509.DeltaCRLIndicator(1))), "is a delta"),
        (
            crl_pem(
                ROOT.revoking(
                    extension=x509.IssuingDistributionPoint(None, None, False, False, None, True, False)
                )
            ),
            "is indirect",
        ),
    ],
    ids=["end", "begin", "base64", "middle", "der", "text", "delta", "indirect"],
)
def test_a_file_that_could_be_understood_wrongly_is_refused_whole(content: bytes, why: str) -> None:
    with pytest.raises(BadList, match=why):
        read_lists(content)


def test_an_unknown_critical_extension_is_refused() -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    with pytest.raises(BadList, match=r"critical extension.*1\.2\.3\.4"):
        read_lists(crl_pem(ROOT.revoking(extension=strange)))


def test_many_are_taken_in_steps_and_hold_from_the_end_on() -> None:
    """A worker serves meanwhile."""
    revoked = read_lists(crl_pem(ROOT.revoking(CLIENT.chain[0])))[0].revoked
    many = RevocationList(revoked.der, (*revoked.serials, *(f"{number:x}" for number in range(100 * PACE))))
    chain = [certified(each.public_bytes(Encoding.DER)) for each in (CLIENT.chain[0], ROOT.root)]
    made, steps = Revocations(), 0
    for _ in made.replace([many]):
        assert not made.refusal(chain)
        steps += 1
    assert steps > 100 and "was revoked" in made.refusal(chain)
