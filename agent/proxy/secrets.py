"""The certificates this worker may use, by identity: what control sent, nothing older than its validity."""

from __future__ import annotations

from collections.abc import Callable

from agent.identity.credentials import Credentials
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal


class Secrets:
    """Filled by the channel. An identity without a valid certificate is refused by name."""

    def __init__(self, wall: Callable[[], float]) -> None:
        """`wall`: seconds since the epoch."""
        self._wall = wall
        self._by_identity: dict[Identity, Credentials] = {}

    def put(self, credentials: Credentials) -> None:
        self._by_identity[credentials.identity] = credentials

    def forget(self, identity: Identity) -> None:
        self._by_identity.pop(identity, None)

    def get(self, identity: Identity) -> Credentials:
        """Valid credentials, or Refusal(IDENTITY_UNAVAILABLE)."""
        credentials = self._by_identity.get(identity)
        if credentials is None:
            raise Refusal(Outcome.IDENTITY_UNAVAILABLE, f"no certificate for {identity} has arrived")
        if credentials.not_after <= self._wall():
            raise Refusal(
                Outcome.IDENTITY_UNAVAILABLE, f"the certificate of {identity} expired at {credentials.expiry}"
            )
        return credentials
