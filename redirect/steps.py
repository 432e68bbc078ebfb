"""Carries out the steps of a plan, one by one. Each may be repeated; a failure names its step and its interface.

A failure ends the steps of that pod, which stays as closed as it is, and of no other. Decides nothing else: the
order is `plan`'s. Runs in a thread of the node's network namespace.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatchmethod
from itertools import groupby

from redirect import host_flows, netns, past_proxy, plan, sides, sock_diag
from redirect.attach import Attachments
from redirect.errors import MapFull, RedirectError, StepFailed
from redirect.maps import Maps
from redirect.neighbourhood import Neighbourhood
from redirect.side import Side

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`done`: a line for each step; `failures`: StepFailed or MapFull, one for each pod and one for the node."""

    done: list[str]
    failures: tuple[RedirectError, ...]


class Executor:
    """Applies steps to the maps and attachments of one instance."""

    def __init__(
        self,
        maps: Maps,
        attachments: Attachments,
        private: Iterable[Side],
        neighbourhood: Neighbourhood,
    ) -> None:
        self._maps = maps
        self._attachments = attachments
        self._private = tuple(private)
        self._neighbourhood = neighbourhood

    def apply(self, steps: Iterable[plan.Step], names: Mapping[int, str]) -> Outcome:
        """All that can be done. `names`: ifindex -> interface, for errors."""
        done: list[str] = []
        failures: dict[int | None, RedirectError] = {}
        steps = tuple(steps)
        self._attachments.expect(sum(isinstance(step, plan.Attach) for step in steps))
        for together in _together(steps):
            left = [each for each in together if plan.concerns(each) not in failures.keys() - {None}]
            if not left:
                continue
            try:
                self._do(_joined(left))
            except (RedirectError, OSError) as error:
                for step in left:
                    failures.setdefault(plan.concerns(step), _failure(step, error, names))
            else:
                done += map(str, left)
        return Outcome(done, tuple(failures.values()))

    @singledispatchmethod
    def _do(self, step: plan.Step) -> None:
        raise TypeError(f"no way to do {step!r}")

    @_do.register
    def _(self, step: plan.PutIface) -> None:
        self._maps.put_iface(step.ifindex, step.entry)

    @_do.register
    def _(self, step: plan.Acquaint) -> None:
        self._neighbourhood.acquaint(step.ifindex)

    @_do.register
    def _(self, step: plan.PutOwner) -> None:
        self._maps.put_owner(step.ifindex, step.text)

    @_do.register
    def _(self, step: plan.NoteHostFlows) -> None:
        host_flows.note(self._maps, dict(step.owners))

    @_do.register
    def _(self, step: plan.DeleteIface) -> None:
        self._maps.delete_iface(step.ifindex)

    @_do.register
    def _(self, step: plan.Attach) -> None:
        self._attachments.attach(step.ifindex, step.program)

    @_do.register
    def _(self, step: plan.GoAhead) -> None:
        self._attachments.go_ahead(step.ifindex, step.program)

    @_do.register
    def _(self, step: plan.Detach) -> None:
        self._attachments.detach(step.ifindex, step.program)

    @_do.register
    def _(self, step: plan.PutPod) -> None:
        self._maps.put_pod(step.address, step.entry)

    @_do.register
    def _(self, step: plan.DeletePod) -> None:
        entry = self._maps.pod(step.address)
        # The address may have moved to another pod since the plan was made.
        if entry is not None and entry.ifindex == step.ifindex:
            self._maps.delete_pod(step.address)

    @_do.register
    def _(self, step: plan.DestroySockets) -> None:
        for side in self._private:
            # Without CONFIG_INET_DIAG_DESTROY the workers close what they have registered.
            with netns.entered(side.netns):
                sock_diag.destroy(step.addresses)

    @_do.register
    def _(self, step: plan.EndPastProxy) -> None:
        # Whatever comes of it, the pod is to be captured: then each end learns of it when it sends.
        try:
            past_proxy.end(self._maps, step.ifindex, step.addresses)
        except OSError as error:
            log.warning("%s: not done, they end when they send: %s", step, error)

    @_do.register
    def _(self, step: plan.SetInnerMtu) -> None:
        for side in self._private:
            sides.set_mtu(side, step.mtu_bytes)

    @_do.register
    def _(self, step: plan.PutHostAddress) -> None:
        self._maps.put_host_address(step.address)

    @_do.register
    def _(self, step: plan.DeleteHostAddress) -> None:
        self._maps.delete_host_address(step.address)


def _together(steps: Iterable[plan.Step]) -> Iterator[list[plan.Step]]:
    """One by one, but those that destroy sockets: the kernel goes through all sockets of the machine for each."""
    for is_destroying, run in groupby(steps, lambda step: isinstance(step, plan.DestroySockets)):
        group = list(run)
        yield from [group] if is_destroying else ([step] for step in group)


def _joined(steps: Sequence[plan.Step]) -> plan.Step:
    if len(steps) == 1:
        return steps[0]
    doomed = [step for step in steps if isinstance(step, plan.DestroySockets)]
    return plan.DestroySockets(frozenset().union(*(step.addresses for step in doomed)), doomed[0].ifindex)


def _failure(step: plan.Step, error: RedirectError | OSError, names: Mapping[int, str]) -> RedirectError:
    ifindex = plan.concerns(step)
    if isinstance(error, MapFull):
        return MapFull(error.name, error.max_entries, ifindex)
    name = "" if ifindex is None else f"{names.get(ifindex, 'interface that is gone')}: "
    failure = StepFailed(f"{name}{step}", _explain(step, error), ifindex)
    failure.__cause__ = error
    return failure


def _explain(step: plan.Step, error: RedirectError | OSError) -> OSError | str:
    code = getattr(error, "errno", None)
    if isinstance(step, plan.Attach | plan.GoAhead) and code == errno.ENODEV:
        return "the interface is gone; has the pod been deleted?"
    if isinstance(error, StepFailed):
        return error.cause
    return error if isinstance(error, OSError) else str(error)
