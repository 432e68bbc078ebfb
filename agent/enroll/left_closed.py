"""What is captured and not served because nobody wants it, or the kernel refused a step: as troubles. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.enroll.held import Held, HeldInterfaces
from agent.enroll.trouble import Missing, Trouble
from redirect.errors import RedirectError


def unwished(interfaces: Iterable[Held]) -> Iterator[Trouble]:
    """Captured before a restart, but no wish says for whom."""
    for each in interfaces:
        ifname, pod = each.place.ifname, each.pod or "NAMESPACE/NAME"
        whose = f"for pod {pod}, and nobody wants that" if each.pod else "but no wish says for which pod"
        text = f"{ifname} is captured, {whose}: closed"
        remedy = f"enrol its pod again (`ztun enroll {pod} --ifname {ifname}`)"
        yield Trouble(Missing.POD, text, ifname=ifname, remedy=remedy)


OPEN_REMEDY = "tried again every second; `ztun doctor` says what is in the way; end the pod if it may not be"
OPEN = "the pod is open: nothing stops what it sends"


def words(failure: RedirectError) -> str:
    """What failed, and where it leaves a pod open that fact first."""
    return f"{OPEN} ({failure})" if failure.is_open else str(failure)


def refused(failures: Iterable[RedirectError], interfaces: HeldInterfaces) -> Iterator[Trouble]:
    """What the kernel did not do."""
    for failure in failures:
        held = interfaces.by_index.get(failure.ifindex) if failure.ifindex is not None else None
        key, ifname = (held.pod, held.place.ifname) if held else (None, "")
        remedy = OPEN_REMEDY if failure.is_open else ""
        yield Trouble(Missing.CAPTURE, words(failure), key, ifname, remedy)
