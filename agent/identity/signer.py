"""What the keeper needs from a certificate authority, and the one way in which it fails.

`rpc.ca_client` implements it over gRPC; tests by hand. Knows nothing of either.
"""

from __future__ import annotations

from typing import Protocol

from agent.model.identity import Identity


class SigningError(Exception):
    """No certificate this time: the authority is away, refuses, or its answer cannot be used. Try later.

    The text is one line: what failed, the likely cause, what to check. `is_transient`: nobody has to change anything
    for it to pass.
    """

    def __init__(self, text: str, *, is_transient: bool = False) -> None:
        super().__init__(text)
        self.is_transient = is_transient


class Signer(Protocol):
    async def sign(self, identity: Identity, csr_pem: str) -> tuple[str, ...]:
        """Have a request signed for an identity; the certificate chain as the authority sends it, PEM by
        PEM, leaf first, roots last (docs/WIRE.md#certificates). Raises SigningError; never waits without end."""
        ...
