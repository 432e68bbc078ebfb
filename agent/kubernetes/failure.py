"""Why a request to the Kubernetes API came to nothing, and what to do about it: pure, from its answer or its error.

Every text names what was asked for, so that whoever reads it in `ztun status` knows which right or file is meant.
"""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any

RETRY_AFTER_LIMIT_S = 120.0
"""A server that asks for more is asked again after this: it may have meant another unit."""
_HOSTNAME_MISMATCH = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`is_gone`: the server no longer has what it was to resume from. `is_conflict`: the object was changed meanwhile.

    `is_missing`: it is not there. `retry_after_s`: the least wait that the server asked for.
    """

    text: str
    remedy: str = ""
    retry_after_s: float = 0.0
    is_gone: bool = False
    is_conflict: bool = False
    is_missing: bool = False

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


def of_answer(status: int, retry_after: str | None, body: bytes, what: str, verbs: str) -> Failure:
    """What an HTTP status other than 2xx means. `what`: the resource, `verbs`: what was to be done with it."""
    said = _status(body)
    message = str(said.get("message") or body[:200].decode("utf-8", "replace").strip() or "no reason given")
    wait_s = _retry_after_s(retry_after, said)
    match status:
        case 401:
            return Failure(
                f"the Kubernetes API does not accept this agent's credentials ({what}: 401)",
                "is its token or client certificate expired, or of another cluster? "
                "A pod's token is renewed by the kubelet",
            )
        case 403:
            return Failure(
                f"the Kubernetes API forbids it: {message}",
                f"give the agent's service account the verbs {verbs} on {what} (a ClusterRole and its binding)",
            )
        case 404:
            return Failure(f"the Kubernetes API has no {what}: {message}", is_missing=True)
        case 409:
            return Failure(f"{what}: {message}", is_conflict=True)
        case 410:
            return Failure(f"{what}: {message}", is_gone=True)
        case 429 | 503:
            return Failure(f"the Kubernetes API is busy ({what}: {status})", retry_after_s=wait_s)
        case _:
            return Failure(f"the Kubernetes API answers {status} for {what}: {message}", retry_after_s=wait_s)


def of_event(status: dict[str, Any], what: str) -> Failure:
    """What an event of type ERROR in a watch means: it holds a Status."""
    code = status.get("code")
    body = json.dumps(status).encode()
    return of_answer(code if isinstance(code, int) else 500, None, body, what, "list and watch")


def of_error(error: Exception, server: str, ca: str, what: str) -> Failure:
    """What an error on the way to `server` means. `ca`: where the roots are from."""
    match error:
        case ssl.SSLCertVerificationError() if error.verify_code in _HOSTNAME_MISMATCH:
            return Failure(
                f"the certificate of the Kubernetes API at {server} is for another name: {error.verify_message}",
                "name the server as its certificate does, or set tls-server-name in the kubeconfig",
            )
        case ssl.SSLCertVerificationError():
            return Failure(
                f"the certificate of the Kubernetes API at {server} cannot be verified: {error.verify_message}",
                f"{ca} must hold the CA that signed it: is it another cluster's?",
            )
        case socket.gaierror():
            return Failure(f"the Kubernetes API at {server} has no address: {error.strerror}")
        case TimeoutError():
            return Failure(f"the Kubernetes API at {server} does not answer ({what})")
        case ConnectionRefusedError():
            return Failure(f"nobody listens at {server}, where the Kubernetes API should be")
        case _:
            return Failure(f"the Kubernetes API at {server}: {what}: {type(error).__name__}: {error}")


def _status(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after_s(header: str | None, status: dict[str, Any]) -> float:
    details = status.get("details")
    text = (
        header
        if header is not None
        else details.get("retryAfterSeconds")
        if isinstance(details, dict)
        else None
    )
    try:
        wanted_s = float(text) if text is not None else 0.0
    except (TypeError, ValueError):
        return 0.0  # a date: our own back-off is good enough
    return min(max(0.0, wanted_s), RETRY_AFTER_LIMIT_S)
