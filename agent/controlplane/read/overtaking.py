"""Which security objects may be in force before what was written with them has been read. Pure.

Security: only what closes and opens nothing, whatever the rest will say. An ALLOW may open (beside another one), so may
any policy that takes the place of an ALLOW, and a DENY whose selector or rules are others.
"""

from __future__ import annotations

from agent.controlplane.read.objects import AuthorizationPolicy, Guard, Object, PeerAuthentication
from agent.controlplane.read.security_kinds import DRY_RUN

__all__ = ["Guard", "only_closes"]
OPEN_MODES = ("PERMISSIVE", "DISABLE")


def only_closes(before: Object | None, after: Object) -> bool:
    """Whether `after` lets nothing through that nobody let through before. `before`: the object in its place."""
    if before is not None and before.meta.place.file != after.meta.place.file:
        return False  # two of one name: who stays is for admission to say
    if isinstance(after, AuthorizationPolicy):
        return _denies(after) and (before is None or _is_denied_too(before, after))
    if isinstance(after, PeerAuthentication):
        is_strict = after.mode == "STRICT" and not any(m in OPEN_MODES for m in after.ports.values())
        return is_strict and (
            before is None
            or (isinstance(before, PeerAuthentication) and (before.selector or {}) == (after.selector or {}))
        )
    return False


def _denies(policy: AuthorizationPolicy) -> bool:
    is_enforced = not policy.is_targeted and policy.meta.annotations.get(DRY_RUN) != "true"
    return is_enforced and policy.action == "DENY"


def _is_denied_too(before: Object, after: AuthorizationPolicy) -> bool:
    return (
        isinstance(before, AuthorizationPolicy)
        and _denies(before)
        and (before.selector or {}) == (after.selector or {})
        and all(rule in after.rules for rule in before.rules)
    )
