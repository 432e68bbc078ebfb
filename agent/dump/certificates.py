"""Certificates as ztunnel dumps them and istioctl reads them: PEM in base64, serial numbers in decimal. Pure.

A key has no place in here: what is taken of an identity are its certificates and nothing else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from agent.identity.keeper import Held, State

Row = dict[str, Any]


def certificate_row(held: Held, chain: Sequence[Certificate], roots: Sequence[Certificate]) -> Row:
    """One identity; `chain`: the leaf and its intermediates, empty as long as there is none."""
    return {
        "identity": str(held.identity),
        "state": _state(held, has_certificate=bool(chain)),
        "certChain": list(map(_certificate, chain)),
        "rootCerts": list(map(_certificate, roots)),
    }


def _state(held: Held, *, has_certificate: bool) -> str:
    if has_certificate:
        return str(State.AVAILABLE.value)
    if held.state is State.INITIALIZING:
        return str(held.state.value)
    return f"{State.UNAVAILABLE.value}: {held.error or 'it has expired'}"


def _certificate(certificate: Certificate) -> Row:
    return {
        "pem": b64encode(certificate.public_bytes(Encoding.PEM)).decode(),
        "serialNumber": str(certificate.serial_number),
        "validFrom": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "expirationTime": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }
