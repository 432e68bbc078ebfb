"""The certificates this worker may use, by identity: what control sent, nothing older than its validity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from agent.identity.credentials import Credentials
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal


class Secrets:
    """Filled by the channel. An identity without a valid certificate is refused by name."""

    def __init__(self, wall: Callable[[], float], group: str = "") -> None:
        """`wall`: seconds since the epoch; `group`: the one key exchange that handshakes may use, empty: any."""
        self._wall, self.group = wall, group
        self._by_identity: dict[Identity, Credentials] = {}

    def put(self, credentials: Credentials) -> None:
        if self.group:
            credentials = replace(credentials, group=self.group)
        self._by_identity[credentials.identity] = credentials

    def forget(self, identity: Identity) -> None:
        self._by_identity.pop(identity, None)

    def get(self, identity: Identity) -> Credentials:
        """Valid credentials, or Refusal(IDENTITY_UNAVAILABLE)."""
        credentials = self._by_identity.get(identity)
        if credentials is None:
            raise Refusal(Outcome.IDENTITY_UNAVAILABLE, f"no certificate for {identity} has arrived")
        now = self._wall()
        if credentials.not_after <= now:
            raise Refusal(Outcome.IDENTITY_UNAVAILABLE, expired(credentials))
        if credentials.shown_until <= now:
            # It came along, and rests on nothing here; some peer may have wanted it as long as it was good.
            credentials = self._by_identity[identity] = credentials.without_expired(now)
        return credentials


def expired(credentials: Credentials) -> str:
    """What has, in words."""
    if credentials.ends is None or credentials.ends >= credentials.expiry.timestamp():
        return f"the certificate of {credentials.identity} expired at {credentials.expiry}"
    end = datetime.fromtimestamp(credentials.ends, UTC)
    return f"an authority that the certificate of {credentials.identity} rests on expired at {end}"
