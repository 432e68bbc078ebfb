"""SPIFFE identities of workloads, in the one form Istio uses.

Format: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` (docs/WIRE.md#mutual-tls: exactly five
parts after the scheme; an empty namespace or account parses, anything else does not).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

SCHEME = "spiffe://"
DEFAULT_TRUST_DOMAIN = "cluster.local"


class IdentityError(ValueError):
    """The text is not an identity of this mesh; the message quotes it."""


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Who a workload is, cryptographically: the URI SAN of its certificate."""

    trust_domain: str
    namespace: str
    service_account: str

    @classmethod
    def parse(cls, text: str) -> Identity:
        if not text.startswith(SCHEME):
            raise IdentityError(f"{text!r} is not an identity: it does not start with {SCHEME}")
        parts = text.removeprefix(SCHEME).split("/")
        if len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa" or not parts[0]:
            raise IdentityError(
                f"{text!r} is not an identity: want {SCHEME}TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
            )
        return cls(parts[0], parts[2], parts[4])

    @property
    def principal(self) -> str:
        """The identity as policies write it: without the scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return SCHEME + self.principal


@lru_cache(maxsize=16384)
def identity_of(trust_domain: str, namespace: str, service_account: str) -> Identity:
    """The identity of these parts, the same object each time: comparing it costs nothing."""
    return Identity(trust_domain, namespace, service_account)


def first_identity(uris: list[str] | tuple[str, ...]) -> Identity | None:
    """The first URI SAN that is an identity, or None (docs/WIRE.md#mutual-tls)."""
    for uri in uris:
        try:
            return Identity.parse(uri)
        except IdentityError:
            continue
    return None
