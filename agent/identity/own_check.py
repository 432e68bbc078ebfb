"""Would a peer accept a certificate of ours? Asked of OpenSSL itself, by a whole handshake of it with itself.

Both roles, with the contexts of every other handshake: the same flags, anchors, usages, and the SPIFFE checks of both
ends. That costs milliseconds, so an answer is kept for as long as it cannot change: until another certificate or
bundle comes, or the time passes a begin or an end of one of the certificates.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from agent.identity.bundle import Issued
from agent.identity.credentials import Credentials
from agent.identity.handshake import HandshakeError, Session
from agent.identity.presented import is_client_of, is_server_of
from agent.model.identity import Identity


def refusal(credentials: Credentials, now: float) -> str:
    """Why a peer with the same bundle would refuse this certificate at that time; empty if it would not.

    `now`: seconds since the epoch.
    """
    own = credentials.identity
    client = Session(
        credentials.make_context(is_server=False, at=now), credentials.anchors, is_server_of((own,)), False
    )
    server = Session(
        credentials.make_context(is_server=True, at=now), credentials.anchors, is_client_of(own), True
    )
    try:
        server.feed(client.outgoing())
        client.feed(server.outgoing())
        server.feed(client.outgoing())
    except HandshakeError as error:
        return error.detail
    return "" if client.done and server.done else "the handshake of the certificate with itself does not end"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Of one certificate with its bundle, from `since` on and before `until`."""

    issued: Issued
    since: float
    until: float
    text: str

    def holds(self, issued: Issued, now: float) -> bool:
        return self.issued is issued and self.since <= now < self.until


class OwnChecks:
    """The verdicts on the certificates in hand."""

    def __init__(self) -> None:
        self._verdicts: dict[Identity, _Verdict] = {}

    def is_known(self, issued: Issued, now: float) -> bool:
        """Whether `refusal` answers from memory, in no time."""
        verdict = self._verdicts.get(issued.identity)
        return verdict is not None and verdict.holds(issued, now)

    def refusal(self, issued: Issued, now: float) -> str:
        """Why peers would refuse this certificate now; empty if they would not."""
        verdict = self._verdicts.get(issued.identity)
        if verdict is None or not verdict.holds(issued, now):
            verdict = self._verdicts[issued.identity] = _judge(issued, now)
        return verdict.text

    def keep_only(self, identities: Collection[Identity]) -> None:
        """Forget the verdicts on everybody else."""
        self._verdicts = {who: verdict for who, verdict in self._verdicts.items() if who in identities}


def _judge(issued: Issued, now: float) -> _Verdict:
    moments = [
        moment.timestamp()
        for each in (*issued.chain, *issued.roots)
        for moment in (each.not_valid_before_utc, each.not_valid_after_utc)
    ]
    # OpenSSL reckons in whole seconds, and the last of them still counts (RFC 5280 4.1.2.5).
    times = [*moments, *(moment + 1 for moment in moments)]
    since = max((time for time in times if time <= now), default=float("-inf"))
    until = min((time for time in times if time > now), default=float("inf"))
    text = refusal(Credentials(issued.identity, issued.key, issued.chain, issued.roots), now)
    return _Verdict(issued, since, until, text)
