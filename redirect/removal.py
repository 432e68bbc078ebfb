"""Takes captured interfaces out: all of them when everything goes, or some though nobody else can."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from redirect.attach import Attachments
from redirect.desired import Desired
from redirect.errors import RedirectError
from redirect.maps import Maps
from redirect.observe import observe, observe_some
from redirect.plan import Step, plan
from redirect.steps import Outcome

Execute = Callable[[Iterable[Step], Mapping[int, str]], Outcome]


def eject(maps: Maps, attachments: Attachments, execute: Execute, ifindexes: Collection[int]) -> Outcome:
    """As `Redirection.eject`. Raises OSError."""
    observed, nothing = observe_some(maps, attachments, ifindexes, Desired((), frozenset()))
    return execute(plan(nothing, observed), observed.interfaces)


def release_all(maps: Maps, attachments: Attachments, execute: Execute) -> list[str]:
    """Every pod let go in order, its connections reset; what was done, and what could not be."""
    try:
        observed = observe(maps, attachments)
        outcome = execute(plan(Desired((), observed.host_addresses), observed), observed.interfaces)
    except (RedirectError, OSError) as error:
        return [f"could not release the pods in order: {error}"]
    return outcome.done + [f"could not release in order: {failure}" for failure in outcome.failures]


def detach_all(attachments: Attachments) -> list[str]:
    """Every program of ours taken off, whatever it is at; what was done. Raises OSError."""
    removed = []
    for ifindex, program in sorted(attachments.attached()):
        attachments.detach(ifindex, program)
        removed.append(f"removed program {program} of interface {ifindex}")
    attachments.detach_lookups()
    # Last: whatever of the others could not be let go in order is closed until now.
    return removed + attachments.detach_guards()
