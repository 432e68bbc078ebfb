"""A policy that applies to a workload and is not in force here: what is done without it, and in which words.

Istiod sends a workload before the policies it lists, and in that window the missing one may be a DENY: doubt denies.
One kind is known without being seen. Istiod makes policies of PeerAuthentication objects, by names that no object can
have (an underscore), lists some of them and never sends them; all they can demand is an identity.
"""

from __future__ import annotations

from typing import NamedTuple

CONVERTED_PREFIX = "converted_peer_authentication_"
CONVERTED_STRICT = "istio_converted_static_strict"


class MissingPolicy(NamedTuple):
    """`name` is its xDS name; `refusal` why this agent refused it, empty while it has not been received."""

    name: str
    refusal: str = ""

    @property
    def demands_identity_only(self) -> bool:
        """Whether it can do no more than deny peers without a proven identity."""
        last = self.name.rpartition("/")[2]
        return last.startswith(CONVERTED_PREFIX) or last == CONVERTED_STRICT

    @property
    def state(self) -> str:
        """What has become of it, for people."""
        if self.refusal:
            return f"policy {self.name} was refused by this agent ({self.refusal})"
        return f"policy {self.name} is listed by the workload but not received yet"

    @property
    def reason(self) -> str:
        """Why a connection is denied for want of it."""
        if self.demands_identity_only:
            return f"{self.state}: until it is in force, only peers with a proven identity are let in"
        return self.state
