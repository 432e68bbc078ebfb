"""After steps that failed: closes who was learnt, and says of whom nothing stops what his pod sends.

A pod whose capture fails half way is closed by what was done before, but for two: one that was learnt is open until
its time is over (`plan.LEARNT_S`), and one whose `from_pod` could not be attached until it can.
"""

from __future__ import annotations

from collections.abc import Collection

from redirect.attach import Attachments
from redirect.errors import RedirectError
from redirect.layout import Flag
from redirect.maps import Maps
from redirect.plan import Attach, PutIface, Step, concerns, left_learnt
from redirect.steps import Outcome

_CAPTURING = Flag.ENROLLED | Flag.LEARN


def after(outcome: Outcome, steps: Collection[Step], maps: Maps, attachments: Attachments) -> Outcome:
    """The same, with what was closed; failures whose pods are open say so (`RedirectError.is_open`)."""
    failed = {each.ifindex for each in outcome.failures if each.ifindex is not None}
    done = list(outcome.done)
    try:
        for step in left_learnt(maps.ifaces(), failed):
            maps.put_iface(step.ifindex, step.entry)
            done.append(f"{step}: it was learnt, and is not captured")
    except (RedirectError, OSError):
        pass  # what failed is said already, and `is_open` looks at what came of it
    wanted = {concerns(step) for step in steps if _is_capturing(step)}
    for failure in outcome.failures:
        if failure.ifindex in wanted and failure.ifindex is not None:
            failure.is_open = not _is_shut(failure.ifindex, maps, attachments)
    return Outcome(done, outcome.failures)


def _is_capturing(step: Step) -> bool:
    return isinstance(step, Attach) or (isinstance(step, PutIface) and bool(step.entry.flags & _CAPTURING))


def _is_shut(ifindex: int, maps: Maps, attachments: Attachments) -> bool:
    """Whether nothing leaves the pod but what its entry lets. Where the kernel does not say it is open."""
    try:
        entry = maps.iface(ifindex)
        program = attachments.attached_at(ifindex).get((ifindex, "from_pod"))
    except (RedirectError, OSError):
        return False
    return entry is not None and Flag.ENROLLED in entry.flags and program is not None
