"""SPIFFE identities of workloads, in the one form Istio uses.

Format: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, five parts and nothing else, each of the few
characters that SPIFFE allows (SPIFFE-ID 2; docs/WIRE.md#mutual-tls). So no two spellings mean one identity, and no
reader of a name can see in it what another does not: no escapes, no dots that walk, no query behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

SCHEME = "spiffe://"
DEFAULT_TRUST_DOMAIN = "cluster.local"
MAX_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255
_TRUST_DOMAIN = "[a-z0-9._-]+"
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+"
_IDENTITY = re.compile(rf"{SCHEME}({_TRUST_DOMAIN})/ns/({_SEGMENT})/sa/({_SEGMENT})")
_QUOTED = 120


class IdentityError(ValueError):
    """The text is not an identity of this mesh; the message quotes it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a workload is, cryptographically: the URI SAN of its certificate."""

    trust_domain: str
    namespace: str
    service_account: str

    # Written out: those of the decorator are not compiled, and each connection asks a dozen times.
    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Identity)
            and self.service_account == other.service_account
            and self.namespace == other.namespace
            and self.trust_domain == other.trust_domain
        )

    def __hash__(self) -> int:
        return hash((self.trust_domain, self.namespace, self.service_account))

    # Nor do they go beside an __eq__ of one's own once it is compiled; `sorted` and `min` ask for no more than this.
    def __lt__(self, other: Identity) -> bool:
        return (self.trust_domain, self.namespace, self.service_account) < (
            other.trust_domain,
            other.namespace,
            other.service_account,
        )

    @classmethod
    def parse(cls, text: str) -> Identity:
        found = _IDENTITY.fullmatch(text) if len(text) <= MAX_BYTES else None
        if found is None or len(found[1]) > MAX_TRUST_DOMAIN_BYTES:
            shown = repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "…")
            raise IdentityError(f"{shown} is not an identity: {_fault(text)}")
        return cls(found[1], found[2], found[3])

    @property
    def principal(self) -> str:
        """The identity as policies write it: without the scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return SCHEME + self.principal


def is_trust_domain(text: str) -> bool:
    """Whether SPIFFE allows it as the name of a trust domain."""
    return len(text) <= MAX_TRUST_DOMAIN_BYTES and re.fullmatch(_TRUST_DOMAIN, text) is not None


def _fault(text: str) -> str:
    """What is wrong with a text that is no identity, the gravest first."""
    if not text.startswith(SCHEME):
        return f"it does not start with {SCHEME}"
    if len(text) > MAX_BYTES:
        return f"it has {len(text)} characters; SPIFFE allows {MAX_BYTES}"
    rest, query, fragment = text.removeprefix(SCHEME), "?" in text, "#" in text
    domain, _, path = rest.partition("/")
    segments = path.split("/")
    if query or fragment:
        return "SPIFFE allows no query and no fragment"
    if "@" in domain or ":" in domain:
        return "SPIFFE allows no user and no port beside the trust domain"
    if len(domain) > MAX_TRUST_DOMAIN_BYTES:
        return f"its trust domain has {len(domain)} characters; SPIFFE allows {MAX_TRUST_DOMAIN_BYTES}"
    if "%" in rest:
        return "SPIFFE allows no percent-escapes"
    if not is_trust_domain(domain):
        return "a trust domain is of a-z, 0-9, '.', '-' and '_', and not empty"
    if path and not all(re.fullmatch(_SEGMENT, segment) for segment in segments):
        return "each part of the path is of letters, digits, '.', '-' and '_', not empty, and neither '.' nor '..'"
    return f"want {SCHEME}TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"


@lru_cache(maxsize=16384)
def identity_of(trust_domain: str, namespace: str, service_account: str) -> Identity:
    """The identity of these parts, the same object each time: comparing it costs nothing.

    The parts are as the control plane gives them: what SPIFFE does not allow is nobody's certificate.
    """
    return Identity(trust_domain, namespace, service_account)
