"""In which order policy and address changes reach a client so that nothing is open in between. Pure.

Early: new and changed policies, before the addresses that list them. Late, after the addresses: removals, and
changes that only open (a policy that now takes a selector must first be listed by those it selects). What a client
held before is known by its version; unknown counts as tightening, so it goes early.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from agent.controlplane.translate.resources import Policy, Resource
from agent.pb import authorization_pb2 as authz

Archive = Mapping[str, authz.Authorization]
"""Version -> a policy as it was served once."""


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    early: tuple[Resource, ...]
    late: tuple[Resource, ...]
    removed: tuple[str, ...]


def plan(
    held: Mapping[str, str], refused: Container[str], target: Mapping[str, Policy], archive: Archive
) -> PolicyPlan:
    """What to send to a client that was sent `held` (name -> version) and `refused` some of it."""
    before = [archive[v] for n, v in held.items() if n not in refused and v in archive]
    early: list[Resource] = []
    late: list[Resource] = []
    for name, policy in target.items():
        version = held.get(name)
        if version == policy.resource.version:
            continue
        old = archive.get(version or "") if name not in refused else None
        opens = only_opens(old, policy.message) if old else adds_to_allowed(policy.message, before)
        (late if opens else early).append(policy.resource)
    return PolicyPlan(tuple(early), tuple(late), tuple(name for name in held if name not in target))


def only_opens(old: authz.Authorization, new: authz.Authorization) -> bool:
    """Whether the change lets more through and nothing less, for every workload."""
    if new.scope != old.scope:
        # Wider or narrower: only a policy that becomes one of a selector can be sent late, since until the
        # addresses list it, the old one protects more workloads than the new.
        return new.scope == authz.WORKLOAD_SELECTOR
    if new.action != old.action or new.dry_run != old.dry_run:
        return False
    kept = [rule in new.rules for rule in old.rules]
    if new.action == authz.ALLOW:
        return all(kept)
    return all(rule in old.rules for rule in new.rules)


def adds_to_allowed(new: authz.Authorization, before: list[authz.Authorization]) -> bool:
    """Whether a new policy joins ALLOW policies that hold for all of its workloads already: then it only opens."""
    if new.action != authz.ALLOW or new.scope == authz.WORKLOAD_SELECTOR:
        return False
    return any(
        old.action == authz.ALLOW
        and not old.dry_run
        and (
            old.scope == authz.GLOBAL
            or (old.scope == new.scope == authz.NAMESPACE and old.namespace == new.namespace)
        )
        for old in before
    )
