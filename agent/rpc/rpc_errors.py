"""What a failed call means for the person who has to fix it: gRPC's status in one plain line.

gRPC tells a wrong root from a closed port only in the text of UNAVAILABLE; the rows below are those texts
(grpcio 1.60 to 1.85). An unknown one is passed on as it is, on one line.
"""

from __future__ import annotations

import grpc

from agent.rpc.endpoint import Endpoint

MAX_DETAIL_CHARS = 300
OURS = "node token"
"""In the words of our own control plane, whose tokens have neither an audience nor a cluster."""

_UNAVAILABLE = (  # a mark in the text, what it means, whether it can pass with nothing changed by anybody
    ("Hostname Verification", "its certificate is not for {name}: check the server name", False),
    ("Peer name", "its certificate is not for {name}: check the server name", False),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not signed by our root: check {roots}", False),
    ("certificate signature failure", "its certificate is not signed by our root: check {roots}", False),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS there: check the port", False),
    ("ALPN", "it does not speak HTTP/2 there: check the port", False),
    ("handshake", "the TLS handshake failed: check that the control plane answers TLS there", True),
    ("Connection refused", "connection refused: is it running, is the port right?", True),
    ("lookup", "its name cannot be resolved: check the address and DNS", True),
    ("DNS resolution", "its name cannot be resolved: check the address and DNS", True),
    ("timed out", "it does not answer: check routes and firewalls", True),
    ("deadline", "it does not answer: check routes and firewalls", True),
)
_BY_CODE = {
    grpc.StatusCode.UNAUTHENTICATED: "it refuses our token: check {token}, its audience and cluster {cluster}",
    grpc.StatusCode.PERMISSION_DENIED: "our token is not for this node's name and account: check {token}",
    grpc.StatusCode.UNIMPLEMENTED: "it has no such service: check the address",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "it is over its limits",
    grpc.StatusCode.DEADLINE_EXCEEDED: "it did not answer in time",
    grpc.StatusCode.CANCELLED: "it ended the call",
    grpc.StatusCode.INVALID_ARGUMENT: "it does not accept the request",
}


_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
)
_UNKNOWN_POD = {
    grpc.StatusCode.UNAUTHENTICATED: "request impersonation authentication failure",
    grpc.StatusCode.PERMISSION_DENIED: "no pod of that service account runs there",
}
"""The words of istiod, and of our control plane, for a pod that it does not find on our node: its list of pods may be
behind."""


def is_transient(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same call may succeed later with nothing changed by anybody."""
    detail = (error.details() or "").lower()
    if error.code() in _UNKNOWN_POD:
        return _is_of_unknown_pod(error.code(), detail)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return next((passes for mark, _, passes in _UNAVAILABLE if mark.lower() in detail), True)
    return error.code() in _PASSING


def explain(error: grpc.aio.AioRpcError, endpoint: Endpoint, what: str = "control plane") -> str:
    """One line: who, what is wrong as far as it can be known, what to check, and the status as sent."""
    detail = " ".join((error.details() or "").split())
    hint = _hint(error.code(), detail).format(
        name=endpoint.server_name or endpoint.address,
        roots=endpoint.roots_source,
        token=endpoint.token_file or "whether it wants a token (none is set)",
        cluster=endpoint.cluster_id or "(none is set)",
    )
    status = f"{error.code().name}: {detail[:MAX_DETAIL_CHARS]}" if detail else error.code().name
    return f"{what} {endpoint.address}: {hint} ({status})" if hint else f"{what} {endpoint.address}: {status}"


def _is_of_unknown_pod(code: grpc.StatusCode, detail: str) -> bool:
    return code in _UNKNOWN_POD and _UNKNOWN_POD[code] in detail


def _hint(code: grpc.StatusCode, detail: str) -> str:
    if code is grpc.StatusCode.UNAUTHENTICATED and OURS in detail:
        return "it refuses our token: check {token}"
    if _is_of_unknown_pod(code, detail.lower()):
        return "it does not find the pod on this node yet; its list of pods may be behind, it is asked again"
    if code is grpc.StatusCode.UNAVAILABLE:
        lowered = detail.lower()
        return next((hint for mark, hint, _ in _UNAVAILABLE if mark.lower() in lowered), "")
    return _BY_CODE.get(code, "")
