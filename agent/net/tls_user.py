"""What the user of a TLS link is told by it."""

from __future__ import annotations

from typing import Protocol

from agent.identity.handshake import Secured
from agent.model.outcome import Outcome


class TlsUser(Protocol):
    def on_secured(self, secured: Secured) -> None:
        """The handshake is done, nothing was read yet; may `fail` the link."""

    def on_plaintext(self, data: memoryview) -> None:
        """Plaintext, valid during the call. May be empty: then only TLS itself wants to be flushed."""

    def on_drained(self) -> None:
        """No longer congested."""

    def on_lost(self, outcome: Outcome, detail: str) -> None:
        """The connection is over; called once. OK means that the peer closed it properly."""


class _Nobody:
    """The user of a link that is over."""

    def on_secured(self, secured: Secured) -> None: ...

    def on_plaintext(self, data: memoryview) -> None: ...

    def on_drained(self) -> None: ...

    def on_lost(self, outcome: Outcome, detail: str) -> None: ...


NOBODY = _Nobody()
