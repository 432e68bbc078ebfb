"""What is broken on the kernel side: which part, whose, why, and what to do about it. Pure values.

A finding is an observation of the kernel, never of what was intended. Most are mended by `Redirection.apply`, which
makes again what is missing; the others say what a person has to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from redirect.desired import Desired
from redirect.observe import Observed
from redirect.plan import Attach, Detach, GoAhead, SetInnerMtu, Step, concerns, missing, plan

WILL_BE_MENDED = "the agent makes it again by itself; if this stays, its log says what is in the way"

TOLD = 3
"""Of differences of one kind."""
NOT_FIRST = (
    "have the owner of that program put it after ours, or take it off ({name}: `bpftool net show`, or `tc filter "
    "show`); then all is as before by itself. Un-enrolling and enrolling the pod tries once more"
)


class Part(Enum):
    """What a connection of a pod depends on, in the order in which it meets them."""

    INTERFACE = "interface"
    LINK_STATE = "link state"
    ENTRY = "entry"
    """What the maps say of the pod and of the node."""
    PROGRAM = "program"
    INNER_DEVICE = "inner device"
    NAMESPACE = "namespace"
    LOOKUP = "lookup"
    LISTENER = "listener"
    PREFILTER = "prefilter"
    """Who is denied by programs: what workers deny all the same, and nobody else."""
    PIN = "pin"
    """Nothing depends on it while this process lives, and everything when it ends."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`ifindex`: the interface of the pod that is concerned; None: the node, and with it all pods."""

    part: Part
    ifindex: int | None
    reason: str
    remedy: str = WILL_BE_MENDED
    is_mendable: bool = True

    def __str__(self) -> str:
        return f"{self.part.value}: {self.reason}"


def of_rivals(given_up: Mapping[tuple[int, str], str], observed: Observed) -> Iterator[Finding]:
    """Programs of others before ours, where ours do not go ahead again; who they are, by (ifindex, program)."""
    for (ifindex, program), who in sorted(given_up.items()):
        name = _name(ifindex, observed)
        reason = f"{who} has packets before {program} on {name}, and came back each time that ours went ahead"
        remedy = NOT_FIRST.format(name=name)
        if (ifindex, program) in observed.inner:
            yield Finding(Part.INNER_DEVICE, None, reason, remedy, is_mendable=False)
        else:
            yield Finding(Part.PROGRAM, ifindex, f"{reason}: the pod is closed", remedy, is_mendable=False)


def of_guards(behind: Mapping[int, str], observed: Observed) -> Iterator[Finding]:
    """Guards that stay behind filters of others, who may end what is to be dropped; by interface, who they are."""
    for ifindex, who in sorted(behind.items()):
        name = _name(ifindex, observed)
        reason = f"{who} on {name}, and came back each time: with all of ztun and its pins gone the pod would be open"
        remedy = NOT_FIRST.partition(";")[0].format(name=name)
        yield Finding(Part.PROGRAM, ifindex, reason, remedy, is_mendable=False)


def of_pods(desired: Desired, observed: Observed) -> Iterator[Finding]:
    """Where the kernel differs from what is desired: everything that a plan would change, and what is gone."""
    for pod in missing(desired, observed):
        yield Finding(
            Part.INTERFACE,
            pod.ifindex,
            f"{pod.ifname} (interface {pod.ifindex}) is gone",
            "is the pod still there? It is captured again when its interface is",
            is_mendable=False,
        )
    for pod in desired.pods:
        link = observed.links.get(pod.ifindex)
        if link is not None and not link.is_up:
            yield Finding(
                Part.LINK_STATE,
                pod.ifindex,
                f"{link.ifname} is down, or its end in the pod is: nothing passes, and routes by it are gone",
                f"`ip link set {link.ifname} up` (or the pod's end), and its routes again, which are its CNI's",
                is_mendable=False,
            )
    for step in plan(desired, observed):
        yield _of_step(step, observed)


def without_listener(name: str) -> Finding:
    remedy = "a worker that serves brings its own; restarting the agent fills the slots"
    return Finding(Part.LISTENER, None, f"slot {name} has no listener", remedy, is_mendable=False)


def without_pin(name: str, root: Path) -> Finding:
    return Finding(Part.PIN, None, f"{name} is no longer pinned in {root}")


def of_prefilter(words: Sequence[str]) -> Iterator[Finding]:
    """`words`: what differs, of which a few are told."""
    if words:
        more = f" and {len(words) - TOLD} more" if len(words) > TOLD else ""
        yield Finding(Part.PREFILTER, None, "; ".join(words[:TOLD]) + more)


def _of_step(step: Step, observed: Observed) -> Finding:
    ifindex = concerns(step)
    name = _name(ifindex, observed)
    match step:
        case Attach(_, program):
            reason = f"{program} is not attached to {name}, or one of an older version is"
            return Finding(Part.PROGRAM, ifindex, reason)
        case GoAhead(_, program):
            who = observed.behind[step.ifindex, program]
            reason = f"{who} has packets before {program} on {name}, and may take them away"
            return Finding(Part.PROGRAM, ifindex, reason)
        case SetInnerMtu(mtu_bytes):
            return Finding(Part.INNER_DEVICE, None, f"the inner devices have another MTU than {mtu_bytes}")
        case Detach(_, program):
            return Finding(Part.PROGRAM, None, f"{program} is left over on {name}, which is not captured")
        case _:
            return Finding(Part.ENTRY, ifindex, f"still to be done: {step}")


def _name(ifindex: int | None, observed: Observed) -> str:
    link = observed.links.get(ifindex) if ifindex is not None else None
    return link.ifname if link is not None else f"interface {ifindex}"
