"""gRPC's own words for a failure, as grpcio 1.85 says them (and 1.60 where it differs), into ours."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.serve.access import Refused, granted_identity
from agent.rpc.endpoint import Endpoint
from agent.rpc.rpc_errors import MAX_DETAIL_CHARS, explain, is_transient

ENDPOINT = Endpoint("10.0.0.1:15012", "/etc/root.pem", "istiod.svc", Path("/run/token"), "c1")
ALL = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:15012: "


def _not_there() -> str:
    """What our control plane says."""
    with pytest.raises(Refused) as refused:
        granted_identity("n1", "spiffe://cluster.local/ns/demo/sa/web", Inventory(), "cluster.local")
    return str(refused.value)


NOT_THERE = _not_there()
IMPERSONATION = "request impersonation authentication failure"


def failed(code: grpc.StatusCode, details: str | None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def said(code: grpc.StatusCode, details: str | None, endpoint: Endpoint = ENDPOINT) -> str:
    return explain(failed(code, details), endpoint)


@pytest.mark.parametrize(
    ("code", "details", "passes"),
    [
        (grpc.StatusCode.UNAVAILABLE, ALL + "Failed to connect to remote host: Connection refused", True),
        (grpc.StatusCode.UNAVAILABLE, ALL + "connection timed out", True),
        (grpc.StatusCode.UNAVAILABLE, ALL + "Handshake read failed (Endpoint closing)", True),
        (grpc.StatusCode.UNAVAILABLE, "the CA is starting", True),
        (grpc.StatusCode.UNAVAILABLE, None, True),
        (grpc.StatusCode.UNAVAILABLE, ALL + "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", False),
        (grpc.StatusCode.UNAVAILABLE, ALL + "Peer name x is not in peer certificate", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", True),
        (grpc.StatusCode.UNAUTHENTICATED, IMPERSONATION, True),
        (grpc.StatusCode.UNAUTHENTICATED, "authentication failure", False),
        (grpc.StatusCode.PERMISSION_DENIED, "no", False),
        (grpc.StatusCode.PERMISSION_DENIED, NOT_THERE, True),
        (grpc.StatusCode.INVALID_ARGUMENT, "CSR signing error", False),
    ],
)
def test_what_passes_by_itself_is_told_from_what_somebody_must_change(
    code: grpc.StatusCode, details: str | None, passes: bool
) -> None:
    assert is_transient(failed(code, details)) is passes


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, IMPERSONATION),
        (grpc.StatusCode.PERMISSION_DENIED, NOT_THERE),
    ],
    ids=["istiod", "ours"],
)
def test_a_ca_that_does_not_know_the_pod_yet_does_not_mean_our_token(
    code: grpc.StatusCode, words: str
) -> None:
    text = said(code, words)
    assert "does not find the pod on this node yet" in text and words in text
    assert "token" not in text


@pytest.mark.parametrize(
    ("details", "hint"),
    [
        (ALL + "Failed to connect to remote host: Connection refused", "is it running, is the port right?"),
        (ALL + "Failed to connect to remote host: Timeout occurred: FD Shutdown", ""),
        (ALL + "connection timed out", "does not answer: check routes and firewalls"),
        (ALL + "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
         "not for istiod.svc: check the server name"),
        (ALL + "Peer name istiod.svc is not in peer certificate", "not for istiod.svc: check the server name"),
        (ALL + "Ssl handshake failed: SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
         "CERTIFICATE_VERIFY_FAILED", "not signed by our root: check /etc/root.pem"),
        (ALL + "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1a000064:ECDSA routines:"
         "OPENSSL_internal:BAD_SIGNATURE: certificate signature failure", "not signed by our root"),
        (ALL + "Tls handshake failed: OPENSSL_internal:WRONG_VERSION_NUMBER", "does not speak TLS there"),
        (ALL + "Cannot check peer: missing selected ALPN property.", "does not speak HTTP/2 there"),
        (ALL + "Handshake read failed (Endpoint closing)", "the TLS handshake failed"),
        ("errors resolving x:1: [field:hostname lookup error:address lookup failed: Domain name not found]",
         "its name cannot be resolved"),
        ("DNS resolution failed for x:1: C-ares status is not ARES_SUCCESS", "its name cannot be resolved"),
    ],
)  # fmt: skip
def test_unavailable_is_told_apart(details: str, hint: str) -> None:
    text = said(grpc.StatusCode.UNAVAILABLE, details)
    assert hint in text and text.startswith("control plane 10.0.0.1:15012: ")
    assert details[:60] in text, "gRPC's own words stay"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "refuses our token: check /run/token, its audience and cluster c1"),
        (grpc.StatusCode.PERMISSION_DENIED, "our token is not for this node's name"),
        (grpc.StatusCode.UNIMPLEMENTED, "has no such service"),
        (grpc.StatusCode.INVALID_ARGUMENT, "does not accept the request"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "over its limits"),
        (grpc.StatusCode.INTERNAL, "control plane 10.0.0.1:15012: INTERNAL: why"),
    ],
)
def test_each_status_says_what_to_check(code: grpc.StatusCode, hint: str) -> None:
    assert hint in said(code, "why")


def test_a_token_of_our_own_control_plane_has_no_audience() -> None:
    text = said(grpc.StatusCode.UNAUTHENTICATED, "unknown node token: it was replaced; issue a new one")
    assert "refuses our token: check /run/token (UNAUTH" in text and "audience" not in text


def test_whatever_a_server_says_stays_one_bounded_line() -> None:
    text = said(grpc.StatusCode.UNKNOWN, "a\r\nb\t{name}" + "c" * 10_000)
    assert "\n" not in text and "a b {name}" in text and len(text) < MAX_DETAIL_CHARS + 100
    assert said(grpc.StatusCode.UNKNOWN, None).endswith(": UNKNOWN")


def test_without_token_it_says_so() -> None:
    assert "none is set" in said(grpc.StatusCode.UNAUTHENTICATED, "", Endpoint("h:1", "SYSTEM"))
